//! DCMTK's servers, started on free ports and stopped by process id.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A running server; stopped when dropped.
pub struct Server {
    pub port: u16,
    /// What it received.
    pub directory: TempDir,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `storescp`, which writes what it receives bit by bit; `None`, said aloud, where it is missing.
pub fn storescp(options: &[&str]) -> Option<Server> {
    start("storescp", |command, directory, port| {
        command.args(["+B", "-od"]).arg(directory).args(options).arg(port.to_string());
    })
}

/// `dcmqrscp` with the AE title ARCHIVE, an archive that can be searched.
pub fn dcmqrscp() -> Option<Server> {
    start("dcmqrscp", |command, directory, port| {
        let database = directory.join("database");
        std::fs::create_dir(&database).expect("a directory");
        let configuration = format!(
            "NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n\
             HostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n\
             AETable BEGIN\nARCHIVE {} RW (200, 1024mb) ANY\nAETable END\n",
            database.display()
        );
        let file = directory.join("dcmqrscp.cfg");
        std::fs::write(&file, configuration).expect("a file");
        command.arg("-c").arg(file);
    })
}

fn start(program: &str, configure: impl Fn(&mut Command, &Path, u16)) -> Option<Server> {
    let directory = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let mut command = Command::new(program);
    // DCMTK leaves Nagle on; that slows the tests, and is measured elsewhere.
    command.env("TCP_NODELAY", "1").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    configure(&mut command, directory.path(), port);
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let required = std::env::var("RELAYPACS_REQUIRE_ALL").is_ok_and(|value| value == "1");
            assert!(!required, "{program} is required and can't be started: {error}");
            eprintln!("SKIPPED: {program}: {error}");
            return None;
        }
    };
    let server = Server { port, directory, child };
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "{program} does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(server)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}
