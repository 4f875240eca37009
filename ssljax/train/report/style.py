"""The style sheet of a report."""

from ssljax.train.report import plots

CSS = (
    """
* { box-sizing: border-box; }
body { margin: 0; background: PAPER; color: INK; -webkit-text-size-adjust: 100%; font: 17px/1.55 Charter,
  "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif; }
main { max-width: 1080px; margin: 0 auto; padding: 56px 28px 72px; }
h1 { font-size: 2rem; line-height: 1.2; font-weight: 600; margin: 0 0 .5em; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; font-weight: 600; margin: 2.6em 0 .8em; padding-top: .9em; border-top: 1px solid #dcdcd6; }
p { max-width: 68ch; margin: 0 0 .8em; overflow-wrap: anywhere; }
table, figcaption, .note { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
table { border-collapse: collapse; font-size: .88rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
th, td { padding: .42em 1.5em .42em 0; text-align: left; vertical-align: baseline; border-bottom: 1px solid #e8e8e3; }
th { font-weight: 500; color: QUIET; }
td { overflow-wrap: anywhere; }
tbody th { color: INK; }
.numbers th + th, .numbers td { text-align: right; padding: .42em 0 .42em 2.2em; white-space: nowrap; }
.best { font-weight: 700; }
.other { color: #9a4a12; }
.note { font-size: .82rem; color: QUIET; margin-top: .7em; }
figure { margin: 0; }
figcaption { font-size: .84rem; font-weight: 500; margin: 0 0 .5em; }
img { display: block; max-width: 100%; height: auto; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 2em 2.2em; }
.curves figure { max-width: 500px; }
.scroll { overflow-x: auto; }
.scroll img { min-width: 620px; }
.wide + .wide { margin-top: 2em; }
@media (max-width: 600px) { body { font-size: 16px; } main { padding: 28px 16px 48px; } h1 { font-size: 1.55rem; }
  th, td { padding-right: .9em; } .numbers th + th, .numbers td { padding-left: 1.1em; } }
@media print { main { padding: 0; } figure, tr { break-inside: avoid; } }
""".replace("PAPER", plots.PAPER)
    .replace("INK", plots.INK)
    .replace("QUIET", plots.QUIET)
)
