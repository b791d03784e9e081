"""A bar chart of ratios as SVG, written as text: it needs no library."""
import html


def ratios(path, title, subtitle, rows):
    """rows: (label, ratio); below 1 is drawn in another colour, from 0 to the largest."""
    height = 60 + 24 * len(rows)
    top = max(ratio for _, ratio in rows)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" font-family="sans-serif" font-size="13">',
           f'<rect width="760" height="{height}" fill="white"/><text x="12" y="24" font-size="15">{html.escape(title)}</text>',
           f'<text x="12" y="42" fill="#666">{html.escape(subtitle)}</text>']
    for i, (label, ratio) in enumerate(rows):
        y = 56 + 24 * i
        width = max(1, 400 * ratio / top)
        out.append(f'<text x="12" y="{y + 13}">{html.escape(label)}</text><rect x="260" y="{y}" width="{width:.0f}" '
                   f'height="17" fill="{"#2a7" if ratio >= 1 else "#c54"}"/>'
                   f'<text x="{266 + width:.0f}" y="{y + 13}">{ratio:.2f}</text>')
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(out) + "\n</svg>\n")
