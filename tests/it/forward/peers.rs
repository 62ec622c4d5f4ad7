//! Real peers, started on free ports with folders of their own, stopped by process id.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &str, arguments: &[&str], log: &Path, port: u16) -> Process {
    let log = std::fs::File::create(log).unwrap();
    let mut child = Command::new(program)
        .args(arguments)
        .env("TCP_NODELAY", "1")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("{program} ended with {status}");
        }
        assert!(Instant::now() < deadline, "{program} does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
    Process(child)
}

/// DCMTK's storescp, which keeps what it receives in `dir`.
pub fn storescp(dir: &Path, port: u16, arguments: &[&str]) -> Process {
    let (port_text, dir_text) = (port.to_string(), dir.to_str().unwrap());
    let all = [&["-aet", "ARCHIVE", "+xa", "-od", dir_text], arguments, &[port_text.as_str()]].concat();
    start("storescp", &all, &dir.with_extension("log"), port)
}

pub struct Orthanc {
    _process: Process,
    pub dicom: u16,
    pub http: u16,
}

/// Orthanc with DICOMweb and storage commitment; reports go to `report_port` of this machine.
pub fn orthanc(dir: &Path, report_port: u16) -> Orthanc {
    let (dicom, http) = (free_port(), free_port());
    let configuration = serde_json::json!({
        "Name": "archive", "StorageDirectory": dir.join("db"), "IndexDirectory": dir.join("db"),
        "DicomAet": "ARCHIVE", "DicomPort": dicom, "HttpPort": http, "RemoteAccessAllowed": false,
        "AuthenticationEnabled": true, "RegisteredUsers": { "gateway": "s3cret" },
        "DicomAlwaysAllowFind": true, "DicomCheckCalledAet": false,
        "DicomModalities": { "node": ["RELAYPACS", "127.0.0.1", report_port] },
        "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
        "DicomWeb": { "Enable": true, "Root": "/dicom-web/" },
    });
    std::fs::create_dir_all(dir.join("db")).unwrap();
    let path = dir.join("orthanc.json");
    std::fs::write(&path, configuration.to_string()).unwrap();
    let process = start("Orthanc", &[path.to_str().unwrap()], &dir.join("log"), http);
    Orthanc { _process: process, dicom, http }
}
