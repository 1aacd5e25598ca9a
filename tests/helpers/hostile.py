"""Prompts that try to be more than text: for pages, sheets, and whatever shows them."""

HOSTILE_PROMPTS = (
    "</script><script>window.broken = 1</script>",
    '<img src=x onerror="window.broken = 2">',
    "\"><svg onload=window.broken=3>'",
    "<!--<script>",
    "${window.broken = 4} $title {{7*7}} %s",
    "a \"quoted\" 'prompt' & more \\ `id` $HOME !!",
    "\u202egnp.exe\u202c \u2066isolated",
    "x" * 10_000,
    "line one\nline two\ttab \x1b[31mred\x1b[201~\x07",
    "-rf --out /",
    "日本 🎨 עברית \u2028 next",
)
