#!/bin/sh
# Start a mock, and run a command with it, such as a test suite: sh mock_in_ci.sh npm test
#
# The exit code is the command's, or 1 if the command misused Basiq.
set -eu

folder=$(mktemp -d)
basiq-async mock --port 0 --ready-file "$folder/ready.json" > "$folder/mock.log" 2>&1 &
mock=$!
trap 'kill "$mock" 2> "$folder/stop.log" || cat "$folder/mock.log"; wait "$mock" || true; rm -r "$folder"' EXIT

# Wait until the mock can be called, and export BASIQ_BASE_URL and BASIQ_API_KEY. If the mock does not start, the script
# ends here, so that the command cannot call another mock or the real Basiq.
eval "$(basiq-async mock wait --ready-file "$folder/ready.json")"

"$@"
misuses=$(basiq-async mock call misuses)
echo "$misuses"
test "$misuses" = '{"items":[]}'
