//! Markdown as words on a terminal. Knows what the pages use: paragraphs, lists, links, bold.

/// Columns, the indent among them.
const WIDTH: usize = 96;

/// A page without its marks, in lines of a readable width, each behind `indent`.
#[must_use]
pub fn plain(markdown: &str, indent: &str) -> String {
    let mut out = String::new();
    let mut paragraph = String::new();
    // The end is a blank line, too.
    for line in markdown.lines().chain([""]) {
        if line.is_empty() || line.starts_with("- ") {
            fill(&paragraph, indent, &mut out);
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

/// Writes a paragraph; an item of a list hangs from its dash.
fn fill(paragraph: &str, indent: &str, out: &mut String) {
    let text = without_links(paragraph).replace("**", "");
    let hanging = if text.starts_with("- ") { "  " } else { "" };
    let mut column = 0;
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > WIDTH {
            out.push('\n');
            column = 0;
        }
        if column == 0 {
            let hanging = if word == "-" { "" } else { hanging };
            out.push_str(indent);
            out.push_str(hanging);
            column = indent.len() + hanging.len();
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += width;
    }
    if column > 0 {
        out.push('\n');
    }
}

/// A link is its text; where it leads to another file of the documentation, with the place where packages install that file.
fn without_links(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        let Some((target, tail)) = after.split_once(')') else { break };
        let (head, name) = before.rsplit_once('[').unwrap_or((before, ""));
        out.push_str(head);
        out.push_str(name);
        // A heading is a code, and `viommu explain` has it.
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
            plain(markdown, "  "),
            "  A code, and a page (/usr/share/doc/libvirt-viommu/docs/install.md).\n\n  - Why: `x`\n  - Do: ask twice.\n"
        );
        assert_eq!(without_links("no [link] (here)"), "no [link] (here)");
    }

    #[test]
    fn lines_are_filled_and_items_hang() {
        let long = format!("- {}", "word ".repeat(40));
        let lines: Vec<String> = plain(&long, "  ").lines().map(str::to_owned).collect();
        assert!(lines.len() == 3 && lines.iter().all(|line| line.len() <= WIDTH), "{lines:?}");
        assert!(lines[0].starts_with("  - word") && lines[1].starts_with("    word"), "{lines:?}");
    }
}
