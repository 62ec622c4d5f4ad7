//! What the documents name exists: they are read by people who then look for it.

use std::collections::BTreeSet;
use std::path::Path;

use relaypacs::dicom::attributes::{COMPUTED, INDEXED};

fn document(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn sources(dir: &Path, names: &mut BTreeSet<String>, text: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        names.insert(path.file_name().unwrap().to_str().unwrap().to_owned());
        if path.is_dir() {
            sources(&path, names, text);
        } else {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn what_the_architecture_names_is_in_the_code() {
    let (mut files, mut code) = (BTreeSet::new(), String::new());
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files, &mut code);
    let text = document("docs/architecture.md");
    let named = text.split('`').skip(1).step_by(2).filter(|name| !name.contains(['\n', ' ']));
    let mut checked = 0;
    for name in named {
        let last = name.trim_end_matches('/').rsplit(['/', ':']).next().unwrap();
        let exists = if name.contains('/') || name.ends_with(".rs") {
            files.contains(last) || Path::new(env!("CARGO_MANIFEST_DIR")).join(name).exists()
        } else {
            ["fn ", "struct ", "enum ", "trait ", "mod "].iter().any(|kind| {
                let defined = format!("{kind}{last}");
                code.match_indices(&defined).any(|(at, _)| {
                    !code[at + defined.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
                })
            }) || code.contains(&format!("    {last},"))
                || code.contains(&format!("    {last} {{"))
        };
        assert!(exists, "docs/architecture.md names `{name}`, which is not in src/");
        checked += 1;
    }
    assert!(checked > 50, "only {checked} names were found");
}

#[test]
fn the_conformance_statement_lists_every_supported_key() {
    let statement = document("docs/conformance-statement.md");
    for attribute in INDEXED.iter().chain(COMPUTED) {
        assert!(statement.contains(attribute.keyword), "{} is missing", attribute.keyword);
    }
}

#[test]
fn what_the_demo_of_the_readme_leaves_behind_is_ignored_by_git() {
    assert!(document("README.md").contains("config/orthanc-demo.json"));
    let demo: serde_json::Value = serde_json::from_str(&document("config/orthanc-demo.json")).unwrap();
    for key in ["StorageDirectory", "IndexDirectory"] {
        // Orthanc looks for it from the folder of its configuration file.
        assert!(demo[key].as_str().unwrap().starts_with("../data/"), "{key}");
    }
    assert!(document(".gitignore").lines().any(|line| line == "/data"));
}

#[test]
fn the_operations_guide_names_every_command() {
    let guide = document("docs/operations.md");
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_relaypacs")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> =
        commands.map_while(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect();
    assert!(commands.len() > 10, "{help}");
    for command in commands {
        assert!(guide.contains(&format!("`{command}")), "`{command}` is missing");
    }
}

#[test]
fn the_committed_openapi_document_is_what_the_binary_prints() {
    let printed = relaypacs::http::api::document::document();
    assert!(document("docs/openapi.json") == printed, "run `make openapi`");
}
