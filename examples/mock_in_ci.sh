#!/bin/sh
# Run a command, such as a test suite, against a mock of its own: sh mock_in_ci.sh npm test
#
# It ends as the command does, or with 1 where that misused Basiq.
set -eu

folder=$(mktemp -d)
basiq-async mock --port 0 --ready-file "$folder/ready.json" > "$folder/mock.log" 2>&1 &
mock=$!
trap 'kill "$mock" 2> "$folder/stop.log" || cat "$folder/mock.log"; wait "$mock" || true; rm -r "$folder"' EXIT

# Waits until that mock can be called, and exports BASIQ_BASE_URL and BASIQ_API_KEY. Where there is none, the script
# ends here: nothing that follows can reach another mock, or Basiq itself.
eval "$(basiq-async mock wait --ready-file "$folder/ready.json")"

"$@"
basiq-async mock violations
