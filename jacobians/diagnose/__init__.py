from dataclasses import dataclass
from typing import Any
@dataclass(frozen=True)
class Diagnosis:
    kind: str
    message: str
def diagnose(*a: Any) -> Any: return ()
def diagnose_form(*a: Any) -> Any: return ()
