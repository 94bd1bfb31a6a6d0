"""The badge of a proof that the base is untouched."""

from __future__ import annotations

from markupsafe import Markup

from app.chat.proof import Proof
from app.text.languages import Speech
from app.views.markup import render


def proof_html(proof: Proof, speech: Speech) -> Markup:
    """What was compared, and what came out."""
    return render(
        "proof",
        kind="holds" if proof.holds else "fails",
        sentence=speech("proof_holds" if proof.holds else "proof_fails", count=f"{proof.logits:,}"),
        between=speech("proof_between") if proof.prefix_changes else "",
        digest=speech("proof_digest", digest=proof.digest),
    )
