//! The results as a table: one row for each number and one column for each count of objects, with the goal next to it.
//! The same rows make the text on the terminal and the Markdown of the documentation.
use std::fmt::Write as _;

use anyhow::{Result, bail};

use crate::scale::Measured;
use crate::scale::rows::{resources, rows, thousands};

/// What to say about the measurement as a whole.
#[derive(Debug, Clone)]
pub struct Heading {
    /// Processor, cores, memory, kernel.
    pub machine: String,
    /// What was measured: version of the source and how the operator was built.
    pub build: String,
    /// The command that repeats it.
    pub command: String,
}

/// The table as Markdown.
pub fn markdown(heading: &Heading, results: &[Measured]) -> String {
    let mut text = format!(
        "{}\n\nMachine: {}. Source: {}. Command: `{}`.\n\n",
        BEGIN, heading.machine, heading.build, heading.command
    );
    let sizes: Vec<String> = results
        .iter()
        .map(|result| format!("{} objects", thousands(result.objects)))
        .collect();
    text.push_str(&format!(
        "| | {} | goal |\n|---|{}---|\n",
        sizes.join(" | "),
        "---:|".repeat(results.len())
    ));
    for row in rows(results) {
        text.push_str(&format!(
            "| {} | {} | {} |\n",
            row.what,
            row.cells.join(" | "),
            row.goal
        ));
    }
    for result in results.iter().filter(|result| !result.not_ready.is_empty()) {
        text.push_str(&format!(
            "\nNot Ready with {} objects: {:?}\n",
            thousands(result.objects),
            result.not_ready
        ));
    }
    for result in results {
        text.push_str(&format!(
            "\nRequests an object until Ready, {} objects: {}.\n",
            thousands(result.objects),
            resources(result)
        ));
    }
    text.push_str(END);
    text.push('\n');
    text
}

/// The table for a terminal.
pub fn text(heading: &Heading, results: &[Measured]) -> String {
    let mut text = format!(
        "machine   {}\nsource    {}\ncommand   {}\n\n",
        heading.machine, heading.build, heading.command
    );
    let rows = rows(results);
    let first = rows
        .iter()
        .map(|row| row.what.chars().count())
        .max()
        .unwrap_or_default();
    let widest = rows
        .iter()
        .flat_map(|row| &row.cells)
        .map(|cell| cell.chars().count())
        .max()
        .unwrap_or_default();
    let sizes = results
        .iter()
        .map(|result| format!("{} objects", thousands(result.objects)));
    let mut line = |what: &str, cells: Vec<String>, goal: &str| {
        text.push_str(&format!("{what:<first$}"));
        for cell in cells {
            // Writing into a String does not fail.
            if write!(text, "  {cell:>widest$}").is_err() {
                return;
            }
        }
        text.push_str(&format!("  {goal}\n"));
    };
    let widest = widest.max(14);
    line("", sizes.map(|size| format!("{size:>widest$}")).collect(), "goal");
    for row in rows {
        line(&row.what, row.cells, row.goal);
    }
    for result in results {
        if !result.not_ready.is_empty() {
            text.push_str(&format!(
                "\nnot Ready with {} objects: {:?}\n",
                thousands(result.objects),
                result.not_ready
            ));
        }
        text.push_str(&format!(
            "\nrequests an object until Ready, {} objects: {}\n",
            thousands(result.objects),
            resources(result)
        ));
    }
    text
}

/// Marks what this program wrote inside of a page.
pub const BEGIN: &str = "<!-- scale: begin, written by `scale --markdown` -->";
/// Its end.
pub const END: &str = "\n<!-- scale: end -->";

/// Puts the table between its marks in a page; an empty page becomes the table.
///
/// # Errors
/// When the page says something else and has no marks: it would be lost.
pub fn insert(page: &str, table: &str) -> Result<String> {
    if page.trim().is_empty() {
        return Ok(table.to_owned());
    }
    let before = page.split_once(BEGIN).map(|(before, _)| before);
    let after = page.split_once(END).map(|(_, after)| after);
    let (Some(before), Some(after)) = (before, after) else {
        bail!("it has no place for the table; put these two lines where it belongs:\n{BEGIN}{END}");
    };
    Ok(format!("{before}{}{after}", table.trim_end_matches('\n')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heading() -> Heading {
        Heading {
            machine: "m".into(),
            build: "b".into(),
            command: "make scale".into(),
        }
    }

    #[test]
    fn a_table_replaces_the_one_that_a_page_has() {
        let result = Measured {
            objects: 1000,
            ready: 1000,
            load: 10.0,
            from_first: 30.0,
            ..Measured::default()
        };
        let first = markdown(&heading(), std::slice::from_ref(&result));
        let page = format!("# Scale\n\n{first}\nThe end.\n");
        let result = Measured {
            from_first: 70.0,
            ..result
        };
        let second = insert(&page, &markdown(&heading(), &[result])).unwrap();
        assert!(
            first.contains("30.0 s, met") && second.contains("70.0 s, missed"),
            "{second}"
        );
        assert!(!second.contains("30.0 s"), "{second}");
        assert!(
            second.starts_with("# Scale\n") && second.ends_with("-->\n\nThe end.\n"),
            "{second:?}"
        );
    }

    #[test]
    fn a_page_without_a_place_for_the_table_is_not_overwritten() {
        let error = insert("# Windlass\n", "table").unwrap_err().to_string();
        assert!(error.contains(BEGIN), "{error}");
        assert_eq!(insert("", "table").unwrap(), "table");
    }

    #[test]
    fn objects_that_are_not_ready_leave_no_time_in_the_table() {
        let result = Measured {
            objects: 1000,
            ready: 999,
            not_ready: [("Downloading".to_owned(), 1)].into(),
            ..Measured::default()
        };
        let text = text(&heading(), &[result]);
        assert!(text.contains("999 of 1,000") && text.contains("not reached"), "{text}");
        assert!(text.contains("\"Downloading\": 1"), "{text}");
    }
}
