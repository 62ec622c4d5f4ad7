//! The binary as a user runs it.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// `relaypacs` with a data folder of its own and ports that the system chooses.
pub struct Binary {
    pub dir: tempfile::TempDir,
}

impl Binary {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn data_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relaypacs"));
        command.args(arguments).current_dir(Path::new(self.dir.path()));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("RELAYPACS_")) {
            command.env_remove(name);
        }
        command
            .env("RELAYPACS__NODE__DATA_DIR", self.data_dir())
            .env("RELAYPACS__DICOM__LISTEN", "127.0.0.1:0")
            .env("RELAYPACS__HTTP__LISTEN", "127.0.0.1:0")
            .env("RELAYPACS__TELEMETRY__LISTEN", "127.0.0.1:0")
            .env("RELAYPACS__SPOOL__SEGMENT_SIZE", "4 MiB")
            .env("RELAYPACS__SPOOL__ANY_FILE_SYSTEM", "true")
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed; its standard output.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Runs a command that must fail; exit code and standard error.
    pub fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// Starts the node and waits until it is healthy.
    pub fn serve(&self) -> Serving<'_> {
        self.wait_for(self.command(&["serve"]))
    }

    /// As [`Binary::serve`], with a command of one's own.
    pub fn wait_for(&self, mut command: Command) -> Serving<'_> {
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut serving = Serving { binary: self, child };
        serving.wait_until_healthy();
        serving
    }
}

pub struct Serving<'a> {
    binary: &'a Binary,
    child: Child,
}

impl Serving<'_> {
    fn wait_until_healthy(&mut self) {
        let begun = std::time::Instant::now();
        while !self.binary.run(&["healthcheck"]).status.success() {
            assert!(self.child.try_wait().unwrap().is_none(), "the node ended: {}", self.log());
            assert!(begun.elapsed() < super::DEADLINE, "the node is not healthy: {}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.binary.dir.path().join("log")).unwrap()
    }

    /// Of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// The exit code, after it was told to end.
    pub fn wait(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
