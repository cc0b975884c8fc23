//! What the pages say, as far as a machine can tell: what they name is there, and a newcomer finds first what is not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What a page or a comment names by its path from the root begins with one of these.
const FOLDERS: [&str; 7] = ["src/", "tests/", ".ci/", ".github/", ".packaging/", "conformance/", "fuzz/"];
/// Folders that are made, or not this project's.
const NOT_OURS: [&str; 6] = [".git", ".work", "target", "node_modules", "corpus", "artifacts"];
/// The same for what a test plays more of when it is told so.
const VARIABLES: [&str; 4] = ["CHAOS_", "CRASH_", "SIM_", "SLUICEMQ_WIRE_"];

/// So many lines are read in five minutes.
const LINES_MAX: usize = 300;
/// So many figures are enough for who has five minutes.
const FIGURES_MAX: usize = 6;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every text of the project: its path from the root, and what is in it.
fn texts() -> Vec<(PathBuf, String)> {
    let (mut found, mut folders) = (Vec::new(), vec![root().to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable folder").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name in Unicode");
            if NOT_OURS.contains(&name) || path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                found.push((path.strip_prefix(root()).expect("below the root").to_owned(), text));
            }
        }
    }
    assert!(found.len() > 100, "the project was not found");
    found
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).expect("a page")
}

/// Words that may be a path: what is between characters that none has.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    text.split(move |c| !is_path(c)).map(|word| word.trim_end_matches(['.', '/']))
}

#[test]
fn a_newcomer_reads_first_what_is_not_there_and_few_figures() {
    let readme = page("README.md");
    let headings: Vec<_> = readme.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(headings.first(), Some(&"Not there yet"));
    assert!(readme.lines().count() <= LINES_MAX, "what is longer belongs beside the code that it is about");
    let rows = readme.lines().filter(|line| line.starts_with('|')).count();
    assert!((1..=FIGURES_MAX).contains(&(rows - 2)), "{} rows of figures", rows - 2);
    assert!(readme.contains("`tests/bench/README.md`"), "where the others are");
}

#[test]
fn what_is_cited_is_in_the_repository() {
    let mut wrong = Vec::new();
    for (path, text) in texts() {
        let folder = path.parent().expect("a folder");
        for cited in words(&text).filter(|word| word.len() > 3 && word.ends_with(".md")) {
            let is_there = root().join(cited).is_file() || root().join(folder).join(cited).is_file();
            if !is_there {
                wrong.push(format!("{} cites {cited}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "pages that are not here:\n{}", wrong.join("\n"));
}

#[test]
fn what_the_pages_send_a_reader_to_is_there() {
    let mut wrong = Vec::new();
    let guides = ["src/config/README.md", "src/mgmt/README.md", "src/net/README.md", "src/tls/README.md"];
    for name in ["README.md", ".github/CONTRIBUTING.md", "tests/bench/README.md", "src/lib.rs"]
        .into_iter()
        .chain(guides)
    {
        let text = page(name);
        // Commands are quoted too: their words are looked at one by one.
        let quoted: String = text.split('`').skip(1).step_by(2).collect::<Vec<_>>().join("\n");
        let paths = words(&quoted).filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder)));
        let missing = paths.filter(|path| !root().join(path).exists());
        wrong.extend(missing.map(|path| format!("{name} names {path}")));
    }
    assert!(wrong.is_empty(), "what is not there:\n{}", wrong.join("\n"));
}

#[test]
fn what_a_page_says_of_a_tests_variables_the_test_reads() {
    let code: String = texts()
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|it| it == "rs"))
        .map(|it| it.1)
        .collect();
    let mut named = BTreeSet::new();
    for name in ["README.md", ".github/CONTRIBUTING.md", "tests/bench/README.md"] {
        let text = page(name);
        let is_part = |c: char| c.is_ascii_uppercase() || c == '_';
        let found =
            text.split(|c| !is_part(c)).filter(|word| VARIABLES.iter().any(|start| word.starts_with(start)));
        named.extend(found.map(str::to_owned));
    }
    assert!(named.len() >= 4, "{named:?}");
    let unknown: Vec<_> = named.iter().filter(|name| !code.contains(&format!("\"{name}\""))).collect();
    assert!(unknown.is_empty(), "variables that nothing reads: {unknown:?}");
}

/// Cargo runs what it finds in `tests` by name.
#[test]
fn what_is_quick_is_tested_first_and_the_clients_last() {
    let entries =
        fs::read_dir(root().join("tests")).expect("the tests").map(|entry| entry.expect("a test").path());
    let targets =
        entries.filter(|path| path.extension().is_some_and(|it| it == "rs") || path.join("main.rs").exists());
    let mut names: Vec<_> = targets.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    let at = |name: &str| names.iter().position(|other| other == name).expect(name);
    assert_eq!(names.last().map(String::as_str), Some("with_clients"));
    for quick in ["adversary", "amqp", "arrows"] {
        assert!(at(quick) < at("chaos").min(at("crash")).min(at("sim")), "{names:?}");
    }
}

#[test]
fn what_bad_input_gets_is_shown_by_the_tests_that_are_named() {
    let (mut missing, mut numbers) = (Vec::new(), Vec::new());
    for row in page("tests/hardening.md").lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = row.split(" | ").collect();
        let Some(number) = cells[0].trim_start_matches("| ").parse::<u32>().ok() else { continue };
        numbers.push(number);
        let mut file = String::new();
        let shown = cells.last().expect("a last cell").trim_end_matches(" |");
        for word in shown.split(['`', ' ', ';', ',']).filter(|word| !word.is_empty()) {
            let path =
                if word.starts_with("src/") { format!("{word}.rs") } else { format!("tests/{word}.rs") };
            if root().join(word).is_file() {
                // A command.
                file.clear();
            } else if word.contains('/') {
                file = fs::read_to_string(root().join(&path)).expect(&path);
            } else if !file.is_empty() && !file.contains(&format!("fn {word}()")) {
                missing.push(format!("{number}: {word}"));
            }
        }
    }
    assert!(missing.is_empty(), "tests that are not there: {missing:#?}");
    let faults = numbers.iter().rposition(|number| *number == 1).expect("faults");
    assert!(
        numbers[..faults].is_sorted() && numbers[faults..].is_sorted() && numbers.len() > 100,
        "{numbers:?}"
    );
}
