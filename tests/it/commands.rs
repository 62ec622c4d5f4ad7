//! Commands do the same through a running node and, when none runs, on the data folder itself.

use serde_json::Value;

use crate::support::Binary;

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What is done with and without a node, and what must be seen after it.
fn keys_peers_and_destinations(binary: &Binary) {
    let key = binary.ok(&["key", "add", "ct", "--scope", "dicomweb:read", "--expires", "90d"]);
    assert!(key.starts_with("rp_") && key.lines().count() == 1, "{key}");
    let listed = json_lines(&binary.ok(&["key", "list", "--json"]));
    let id = listed.last().unwrap()["id"].as_str().unwrap().to_owned();
    assert!(listed[0]["expires_at"].as_str().unwrap().ends_with('Z'), "{listed:?}");
    assert!(key.contains(&id) && !listed.last().unwrap().to_string().contains(key.trim()), "{listed:?}");
    binary.ok(&["key", "revoke", &id]);
    assert_eq!(binary.fails(&["key", "revoke", "no-such-key"]).0, 1);

    binary.ok(&["peer", "add", "CT 1", "--allow", "10.1.4.0/24"]);
    assert_eq!(binary.fails(&["peer", "add", "CT 1"]).0, 1);
    assert_eq!(json_lines(&binary.ok(&["peer", "list", "--json"]))[0]["allow"][0], "10.1.4.0/24");
    binary.ok(&["peer", "remove", "CT 1"]);
    assert_eq!(binary.ok(&["peer", "list", "--json"]), "");

    let address = ["--ae-title", "ARCHIVE", "--host", "127.0.0.1", "--port", "1"];
    binary.ok(&[&["destination", "add", "pacs"], &address[..]].concat());
    assert_eq!(binary.fails(&[&["destination", "add", "pacs"], &address[..]].concat()).0, 1);
    let (code, error) = binary.fails(&["destination", "add", "web", "--kind", "stow"]);
    assert!(code == 2 && error.contains("destinations.web.url"), "{error}");
    binary.ok(&["destination", "pause", "pacs"]);
    assert_eq!(json_lines(&binary.ok(&["destination", "list", "--json"]))[0]["paused"], true);
    binary.ok(&["destination", "resume", "pacs"]);
    assert_eq!(json_lines(&binary.ok(&["destination", "list", "--json"]))[0]["paused"], false);
    assert_eq!(binary.fails(&["destination", "echo", "pacs"]).0, 1);
    assert_eq!(binary.fails(&["destination", "pause", "nobody"]).0, 1);
    binary.ok(&["destination", "remove", "pacs"]);
    assert_eq!(binary.ok(&["destination", "list", "--json"]), "");

    assert_eq!(json_lines(&binary.ok(&["spool", "status", "--json"]))[0]["objects"], 0);
    assert_eq!(binary.ok(&["spool", "list", "--json"]), "");
    assert_eq!(json_lines(&binary.ok(&["spool", "verify", "--json"]))[0]["damaged_entries"], 0);
    binary.ok(&["reindex"]);
}

#[test]
fn without_a_node_commands_work_on_the_data_folder() {
    keys_peers_and_destinations(&Binary::new());
}

#[test]
fn with_a_node_commands_ask_it() {
    let binary = Binary::new();
    let _node = binary.serve();
    keys_peers_and_destinations(&binary);
}

#[test]
fn entries_of_the_file_are_read_only() {
    let binary = Binary::new();
    let file = binary.dir.path().join("node.toml");
    let text = "[[dicom.peers]]\nae_title = \"CT_1\"\n[[destinations]]\nname = \"pacs\"\nkind = \"dimse\"\n\
                ae_title = \"ARCHIVE\"\nhost = \"127.0.0.1\"\nport = 1\n";
    std::fs::write(&file, text).unwrap();
    let config = ["--config", file.to_str().unwrap()];
    for command in [
        &["peer", "add", "CT_1"][..],
        &["peer", "remove", "CT_1"],
        &["destination", "remove", "pacs"],
        &["destination", "add", "pacs", "--ae-title", "X", "--host", "h", "--port", "1"],
    ] {
        let (code, error) = binary.fails(&[command, &config].concat());
        assert!(code == 1 && error.contains("configuration file"), "{error}");
    }
    let listed = json_lines(&binary.ok(&[&["destination", "list", "--json"], &config[..]].concat()));
    assert_eq!(listed[0]["from_file"], true);
}

#[test]
fn migrations_go_down_and_up_and_are_listed() {
    let binary = Binary::new();
    binary.ok(&["migrate", "down", "--to", "0"]);
    let applied = |text: &str| json_lines(text).iter().filter(|step| step["applied"] == true).count();
    assert_eq!(applied(&binary.ok(&["migrate", "status", "--json"])), 0);
    binary.ok(&["migrate", "up"]);
    let status = binary.ok(&["migrate", "status", "--json"]);
    assert_eq!(applied(&status), json_lines(&status).len());
}
