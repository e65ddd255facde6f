"""How the page looks: light and dark, and on a phone."""

STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfc; --ink: #1d2024; --soft: #5d646c;
  --rule: #e1e3e6; --panel: #f4f5f6; --warn: #fff5de; --warn-edge: #d99a1f;
  --s0: #30363d; --s1: #1769c2; --s2: #d4641a; --s3: #1f8a5b; --s4: #8a4fbf; --s5: #c23a63;
  --s6: #7d6a1c; --s7: #0f8a99; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e7e9eb; --soft: #9aa3ab;
  --rule: #2c3238; --panel: #1c2024; --warn: #2d2614; --warn-edge: #c9942f;
  --s0: #d5dade; --s1: #64a8f0; --s2: #f2935a; --s3: #55c795; --s4: #bd8ff0; --s5: #ee7c9b;
  --s6: #cdb85a; --s7: #4cc3d2; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 1120px; padding: 28px 20px 64px; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans",
  sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 1.2rem; margin: 44px 0 6px; padding-top: 14px; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 20px 0 6px; }
p { margin: 6px 0 12px; max-width: 74ch; }
.soft, footer, figcaption { color: var(--soft); font-size: .875rem; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 12px 0 0; padding: 0;
  list-style: none; }
.legend li, th .dot { font-weight: 600; white-space: nowrap; }
.swatch { display: inline-block; width: .7em; height: .7em; border-radius: 50%;
  margin-right: .4em; }
.badge { font-weight: 400; font-size: .75rem; color: var(--soft); border: 1px solid var(--rule);
  border-radius: 9px; padding: 1px 7px; margin-left: 6px; }
.warning { background: var(--warn); border-left: 4px solid var(--warn-edge); padding: 9px 14px;
  margin: 8px 0; border-radius: 0 6px 6px 0; max-width: 88ch; overflow-wrap: anywhere; }
.warning span { display: block; color: var(--soft); font-size: .875rem; }
.wide { overflow-x: auto; margin: 10px 0; }
table { border-collapse: separate; border-spacing: 0; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px 6px 0; text-align: right; border-bottom: 1px solid var(--rule);
  vertical-align: baseline; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: var(--paper); white-space: normal; }
th { white-space: normal; overflow-wrap: break-word; min-width: 4.5em; }
thead th { color: var(--soft); font-weight: 600; border-bottom: 1.5px solid var(--soft);
  vertical-align: bottom; }
td small { color: var(--soft); }
td.best { font-weight: 700; } td.best small { font-weight: 400; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr));
  gap: 22px 44px; margin: 14px 0; }
figure { margin: 0; min-width: 0; max-width: 480px; }
figcaption { margin-bottom: 4px; }
figcaption b { color: var(--ink); font-size: .95rem; display: block; overflow-wrap: anywhere; }
.chart { width: 100%; height: auto; display: block; font-family: inherit; font-size: 11.5px;
  overflow: visible; }
.chart text { fill: var(--ink); } .chart .tick, .chart .label { fill: var(--soft); }
.chart .small { font-size: 9.5px; } .chart .group { font-weight: 600;
  paint-order: stroke; stroke: var(--paper); stroke-width: 5px; }
.chart .value { font-variant-numeric: tabular-nums; }
.chart line.grid { stroke: var(--rule); } .chart line.zero { stroke: var(--soft); }
.chart line.bar { stroke-width: 2.5; opacity: .45; } .chart polyline { fill: none;
  stroke-width: 1.8; stroke-linejoin: round; }
.sample { border: 1px solid var(--rule); border-radius: 8px; margin: 14px 0; overflow: hidden; }
.sample > .prompt { background: var(--panel); padding: 10px 14px; }
.sample > .texts { display: grid;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 240px), 1fr)); }
.sample > .texts > div { padding: 10px 14px; border-top: 1px solid var(--rule); min-width: 0; }
.sample b.soft { font-weight: 400; }
.sample pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 4px 0 0;
  font: .82rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.tokens { display: flex; flex-wrap: wrap; gap: 6px; margin: 8px 0; padding: 0; list-style: none;
  font-size: .82rem; }
.tokens li { background: var(--panel); border-radius: 5px; padding: 2px 8px; max-width: 100%;
  overflow-wrap: anywhere; }
.tokens code { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.tokens small { color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
footer { margin-top: 48px; border-top: 1px solid var(--rule); padding-top: 12px; }
@media (max-width: 520px) { body { padding: 18px 14px 48px; font-size: 15px; }
  h1 { font-size: 1.4rem; } dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; }
  th, td { padding-right: 10px; } td small { display: block; }
  table { font-size: .84rem; } }
""" + "\n".join(
    f".chart .s{k} {{ fill: var(--s{k}); stroke: var(--s{k}); }} "
    f".chart polyline.s{k} {{ fill: none; }} "
    f".chart circle.s{k}, .chart rect.s{k} {{ stroke: none; }} "
    f".swatch.s{k} {{ background: var(--s{k}); }}"
    for k in range(8)
)
