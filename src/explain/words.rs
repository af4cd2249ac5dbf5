//! Markdown as text for a terminal: paragraphs, lists, links, bold and code, which is what the pages use.

use crate::text::wrap;

/// A page without marks, in lines of at most `width` columns that begin with `indent`.
#[must_use]
pub fn plain(markdown: &str, indent: &str, width: usize) -> String {
    let mut out = String::new();
    let mut paragraph = String::new();
    // The end counts as a blank line.
    for line in markdown.lines().chain([""]) {
        if line.is_empty() || line.starts_with("- ") {
            fill(&paragraph, indent, width, &mut out);
            paragraph.clear();
            if line.is_empty() && !out.is_empty() {
                out.push('\n');
            }
        }
        paragraph.push_str(line.trim());
        paragraph.push(' ');
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// Writes a paragraph; the lines of a list item hang from its dash.
fn fill(paragraph: &str, indent: &str, width: usize, out: &mut String) {
    let text = without_links(paragraph).replace("**", "").replace('`', "");
    let words: Vec<&str> = text.split_whitespace().collect();
    if !words.is_empty() {
        let hang = indent.len() + if words.first() == Some(&"-") { 2 } else { 0 };
        out.push_str(&wrap(&format!("{indent}{}", words.join(" ")), width, hang));
        out.push('\n');
    }
}

/// Replaces a link by its text, and adds the installed path if it leads to another file of the documentation.
fn without_links(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        let Some((target, tail)) = after.split_once(')') else { break };
        let (head, name) = before.rsplit_once('[').unwrap_or((before, ""));
        out.push_str(head);
        out.push_str(name);
        // A heading is a code, which `viommu explain` has.
        if !target.contains('#') {
            out.push_str(" (/usr/share/doc/libvirt-viommu/docs/");
            out.push_str(target);
            out.push(')');
        }
        rest = tail;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_go_and_words_stay() {
        let markdown = "A [code](troubleshooting.md#code), and\n[a page](install.md).\n\n- **Why:** `x`\n- **Do:** ask\n  twice.\n";
        assert_eq!(
            plain(markdown, "  ", 96),
            "  A code, and a page (/usr/share/doc/libvirt-viommu/docs/install.md).\n\n  - Why: x\n  - Do: ask twice.\n"
        );
        assert_eq!(without_links("no [link] (here)"), "no [link] (here)");
    }

    #[test]
    fn lines_are_filled_and_items_hang() {
        let long = format!("- {}", "word ".repeat(40));
        let lines: Vec<String> = plain(&long, "  ", 96).lines().map(str::to_owned).collect();
        assert!(lines.len() == 3 && lines.iter().all(|line| line.len() <= 96), "{lines:?}");
        assert!(lines[0].starts_with("  - word") && lines[1].starts_with("    word"), "{lines:?}");
    }
}
