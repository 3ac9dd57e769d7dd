"""`python -m tests.documents`: writes the generated parts of the documents anew, and names the pages."""

from __future__ import annotations

from tests.documents.generated import write

write()
