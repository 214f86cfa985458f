"""What schemathesis cannot know of the shop."""

import json
import os

import schemathesis
from schemathesis.specs.openapi.checks import negative_data_rejection

IDS = json.loads(os.environ["BOOKWORM_OPENAPI_IDS"])


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    """Names something that is there in half of the requests that name something."""
    if not path_parameters:
        return path_parameters
    for name, value in path_parameters.items():
        known = next((id for part, id in IDS.items() if f"/{part.strip('/')}" in context.operation.path and f"{{{name}}}" in part), None)
        if known and isinstance(value, str) and len(value) == 36 and value[-1] in "02468ace":
            path_parameters[name] = known
    return path_parameters


def free(value):
    """Whether a value has a null, which protobuf's JSON reads as a field that is not set."""
    if isinstance(value, dict):
        return any(free(v) for v in value.values())
    return value is None


@schemathesis.check
def invalid_data_is_refused(ctx, response, case):
    numbered = str((case.query or {}).get("sort", "")).isdigit()  # an enum by its number
    if numbered or free(case.body):
        return None
    return negative_data_rejection(ctx, response, case)
