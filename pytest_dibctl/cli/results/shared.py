"""What the types of results have in common."""

from __future__ import annotations

from typing import Annotated, Final, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

closed: Final = with_config(ConfigDict(extra="forbid", use_attribute_docstrings=True))
"""Makes a key that a type does not have an error, and the docstrings of keys their descriptions."""

Error = Annotated[str | None, Field(description="what went wrong; null if all is well")]
Notes = Annotated[list[str], Field(description="what else is to be known of the error; only beside one")]
Code = Annotated[int, Field(description="the exit code of the error; 0 without one")]


class Failure(TypedDict):
    """The keys of results that may fail one by one."""

    error: Error
    notes: NotRequired[Notes]
    exit_code: Code
