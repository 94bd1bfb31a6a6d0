"""The docs' figures are what the tool draws of the results that are kept, in both languages."""

from __future__ import annotations

from pathlib import Path

from tools.keeping.draw import FIGURES, draw_all


def test_the_docs_figures_are_drawn_from_the_results(tmp_path: Path, repository: Path) -> None:
    draw_all(tmp_path)
    drawn = sorted(tmp_path.iterdir())
    assert [file.name for file in drawn] == sorted(file.name for file in FIGURES.iterdir())
    for file in drawn:
        assert file.read_text(encoding="utf-8") == (FIGURES / file.name).read_text(encoding="utf-8"), file.name
        page = "training_zh.md" if file.stem.endswith("-zh") else "training.md"
        assert f"(figures/{file.name})" in (repository / "docs" / page).read_text(encoding="utf-8")
