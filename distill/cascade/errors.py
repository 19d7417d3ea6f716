"""What is refused, in the format of OpenAI's errors, so that its clients raise what they know."""

from fastapi.responses import JSONResponse

from distill.cascade.refused import Refused

KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


def error_of(error: Refused) -> dict:
    """The body that says so."""
    said = {
        "message": error.message,
        "type": KINDS.get(error.status, "invalid_request_error"),
        "param": error.param,
        "code": error.code,
    }
    return {"error": said}


def error_response(error: Refused) -> JSONResponse:
    """The reply with it; a client may come again soon where it is not at fault."""
    headers = {}
    if error.status in (429, 503):
        headers["Retry-After"] = "1"
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_of(error), error.status, headers)
