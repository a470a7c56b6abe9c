"""A page as a workflow of one activity, in a module of its own: Temporal runs it in a sandbox."""

from datetime import timedelta

from temporalio import workflow


@workflow.defn
class Page:
    @workflow.run
    async def run(self, page: str) -> None:
        await workflow.execute_activity("work", page, start_to_close_timeout=timedelta(hours=1))
