//! A PostgreSQL server of the tests' own: its data in a temporary directory, on a free port,
//! stopped with the last test that uses it (or with the process, should that be killed).

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak, mpsc};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub struct Server {
    bin: PathBuf,
    pub port: u16,
    dir: TempDir,
    running: Mutex<Option<Running>>,
}

/// PostgreSQL is told to die with the thread that started it, so that thread lives as long.
struct Running {
    stop: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The server that the tests of this process share; `None`, said aloud, when there is none to be
/// had, which is a failure under `RELAYPACS_REQUIRE_ALL=1`.
pub fn shared() -> Option<Arc<Server>> {
    let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(server) = shared.upgrade() {
        return Some(server);
    }
    let server = Arc::new(available()?);
    *shared = Arc::downgrade(&server);
    Some(server)
}

/// A server of its own, for tests that stop it.
pub fn available() -> Option<Server> {
    match Server::start() {
        Ok(server) => Some(server),
        Err(why) => {
            let required = std::env::var("RELAYPACS_REQUIRE_ALL").is_ok_and(|value| value == "1");
            assert!(!required, "PostgreSQL is required and can't be had: {why}");
            eprintln!("SKIPPED on PostgreSQL: {why}");
            None
        }
    }
}

impl Server {
    fn start() -> Result<Server, String> {
        let bin = newest_installation().ok_or("no /usr/lib/postgresql/*/bin/postgres")?;
        let dir = tempfile::Builder::new().prefix("relaypacs-pg").tempdir().map_err(|e| e.to_string())?;
        if is_root() {
            // PostgreSQL refuses to run as root.
            run(Command::new("chown").arg("postgres").arg(dir.path()))?;
        }
        let data = dir.path().join("data");
        let mut initdb = as_postgres(&bin.join("initdb"));
        run(initdb
            .args(["-N", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-D"])
            .arg(&data))?;
        let server = Server { bin, port: free_port()?, dir, running: Mutex::new(None) };
        server.launch()?;
        Ok(server)
    }

    /// Starts it (again) on its port, and waits until it answers.
    pub fn launch(&self) -> Result<(), String> {
        let mut postgres = as_postgres(&self.bin.join("postgres"));
        postgres.arg("-D").arg(self.dir.path().join("data"));
        postgres.args(["-F", "-c", "listen_addresses=127.0.0.1", "-p", &self.port.to_string(), "-k", ""]);
        let (stop, stopped) = mpsc::channel::<()>();
        let (started, spawned) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let child = postgres.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
            let mut child = match child {
                Ok(child) => child,
                Err(error) => return drop(started.send(Err(error.to_string()))),
            };
            let _ = started.send(Ok(()));
            let _ = stopped.recv();
            end(&mut child);
        });
        spawned.recv().map_err(|e| e.to_string())??;
        *self.running.lock().map_err(|e| e.to_string())? = Some(Running { stop, thread });
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.answers() {
            if Instant::now() > deadline {
                return Err("PostgreSQL did not answer within a minute".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn answers(&self) -> bool {
        let mut ready = Command::new(self.bin.join("pg_isready"));
        ready.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        TcpStream::connect(("127.0.0.1", self.port)).is_ok()
            && ready.status().is_ok_and(|status| status.success())
    }

    pub fn stop(&self) {
        let running = self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(Running { stop, thread }) = running {
            drop(stop);
            let _ = thread.join();
        }
    }

    /// The URL of a new, empty database.
    pub fn new_database(&self) -> String {
        let name = format!("t{}", DATABASES.fetch_add(1, Ordering::SeqCst));
        let mut createdb = Command::new(self.bin.join("createdb"));
        createdb.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres", &name]);
        run(&mut createdb).expect("a new database");
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// SIGINT is PostgreSQL's fast shutdown.
fn end(child: &mut Child) {
    let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    if let Some(mut log) = child.stderr.take() {
        let _ = log.read_to_string(&mut String::new());
    }
    let _ = child.wait();
}

fn newest_installation() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let bins = versions.flatten().map(|version| version.path().join("bin"));
    bins.filter(|bin| bin.join("postgres").exists()).max()
}

fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "INT"]);
    if is_root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    }
    command.arg(program).current_dir("/");
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    listener.local_addr().map(|address| address.port()).map_err(|e| e.to_string())
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}
