//! The process: configuration from its environment, exit codes, locks, signals.

use rustix::process::Signal;

use crate::support::Binary;

#[test]
fn the_environment_overrides_the_file_and_the_file_the_default() {
    let binary = Binary::new();
    let file = binary.dir.path().join("node.toml");
    std::fs::write(&file, "[dicom]\nlisten = \"127.0.0.1:104\"\nae_title = \"FILE\"\n").unwrap();
    let printed = binary.ok(&["check-config", "--config", file.to_str().unwrap()]);
    assert!(printed.contains("ae_title = [\"FILE\"]"), "{printed}");
    assert!(printed.contains("listen = [\"127.0.0.1:0\"]"), "{printed}");
    assert!(printed.contains("max_connections = 8"), "{printed}");
}

#[test]
fn a_wrong_configuration_exits_with_78_and_names_the_key() {
    let binary = Binary::new();
    let file = binary.dir.path().join("node.toml");
    for (text, sentence) in [
        ("[dicom]\nae_titel = \"X\"\n", "relaypacs: dicom.ae_titel is not a key of the configuration\n"),
        ("[spool]\ncritical_watermark = 0.5\n", "relaypacs: spool.critical_watermark: must lie between"),
        ("not toml", "relaypacs: "),
    ] {
        std::fs::write(&file, text).unwrap();
        let (code, error) = binary.fails(&["serve", "--config", file.to_str().unwrap()]);
        assert_eq!(code, 78, "{error}");
        assert!(error.starts_with(sentence) && error.lines().count() == 1, "{error}");
    }
    assert_eq!(binary.fails(&["serve", "--config", "/nonexistent.toml"]).0, 78);
    assert_eq!(binary.fails(&["serve", "--no-such-option"]).0, 2);
}

#[test]
fn a_secret_that_others_can_read_stops_the_start_without_being_shown() {
    use std::os::unix::fs::PermissionsExt;
    let binary = Binary::new();
    let secret = binary.dir.path().join("token");
    std::fs::write(&secret, "correct-horse-battery").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    let file = binary.dir.path().join("node.toml");
    std::fs::write(&file, format!("[telemetry]\ntoken_file = {secret:?}\n")).unwrap();
    let (code, error) = binary.fails(&["check-config", "--config", file.to_str().unwrap()]);
    assert_eq!(code, 78);
    assert!(error.contains("telemetry.token_file") && !error.contains("horse"), "{error}");
}

#[test]
fn a_second_process_on_one_data_folder_is_refused_by_its_lock() {
    let binary = Binary::new();
    let _node = binary.serve();
    let (code, error) = binary.fails(&["serve"]);
    assert_eq!(code, 1);
    assert!(error.contains("another process uses the data folder"), "{error}");
}

#[test]
fn sigterm_drains_and_exits_with_0() {
    let binary = Binary::new();
    let node = binary.serve();
    node.signal(Signal::TERM);
    assert_eq!(node.wait(), Some(0));
    assert!(!binary.data_dir().join("control.sock").exists());
    assert_eq!(binary.fails(&["healthcheck"]).0, 1);
}

#[test]
fn a_killed_node_leaves_nothing_that_stops_the_next_one() {
    let binary = Binary::new();
    let node = binary.serve();
    node.signal(Signal::KILL);
    assert_eq!(node.wait(), None);
    assert!(binary.data_dir().join("control.sock").exists());
    let node = binary.serve();
    node.signal(Signal::INT);
    assert_eq!(node.wait(), Some(0));
}

#[test]
fn a_spool_that_can_not_be_written_exits_with_75() {
    let binary = Binary::new();
    std::fs::create_dir_all(binary.data_dir()).unwrap();
    std::fs::write(binary.data_dir().join("spool"), "a file where the folder should be").unwrap();
    let (code, error) = binary.fails(&["serve"]);
    assert_eq!(code, 75, "{error}");
}

#[test]
fn a_node_that_started_before_starts_while_its_database_is_down() {
    let binary = Binary::new();
    drop(binary.serve());
    // Nobody listens on port 1: PostgreSQL is down, for all that the node can tell.
    let mut command = binary.command(&["serve"]);
    command.env("RELAYPACS__DATABASE__URL", "postgres://relaypacs@127.0.0.1:1/none");
    let node = binary.wait_for(command);
    assert!(node.log().contains("starting without it"), "{}", node.log());
    assert_eq!(binary.ok(&["healthcheck"]), "ready, without its database\n");
    node.signal(Signal::TERM);
    assert_eq!(node.wait(), Some(0));
}

#[test]
fn the_node_takes_as_many_open_files_as_the_system_permits() {
    let binary = Binary::new();
    let mut command = std::process::Command::new("sh");
    let serve = binary.command(&["serve"]);
    command.args(["-c", "ulimit -Sn 200; exec \"$0\" serve"]).arg(serve.get_program());
    command.current_dir(binary.dir.path());
    for (name, value) in serve.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let node = binary.wait_for(command);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", node.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let [soft, hard] = [3, 4].map(|at| line.split_whitespace().nth(at).unwrap());
    assert!(soft == hard && hard != "200", "{line}");
}
