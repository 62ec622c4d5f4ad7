//! Outgoing associations, and the commands built on them, against DCMTK.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use relaypacs::dicom::part10::{MetaProgress, read_meta};
use relaypacs::dicom::status::Status;
use relaypacs::dicom::{AeTitle, Uid};
use relaypacs::dimse::scu::{Association, Peer, Proposal, ScuError};

use crate::support::dcmtk::{self, Server};

const VERIFICATION: &str = "1.2.840.10008.1.1";
const SECONDARY_CAPTURE: &str = "1.2.840.10008.5.1.4.1.1.7";
const STUDY_ROOT: &str = "1.2.840.10008.5.1.4.1.2.2.1";
const IMPLICIT: &str = "1.2.840.10008.1.2";
const EXPLICIT: &str = "1.2.840.10008.1.2.1";

fn peer(server: &Server) -> Peer {
    Peer {
        host: "localhost".into(),
        port: server.port,
        called_ae_title: AeTitle::parse("ARCHIVE").unwrap(),
        calling_ae_title: AeTitle::parse("RELAYPACS").unwrap(),
        timeout: Duration::from_secs(20),
        never: [].into(),
    }
}

fn proposal(abstract_syntax: &str, transfer_syntax: &str) -> Proposal {
    Proposal {
        abstract_syntax: abstract_syntax.into(),
        transfer_syntaxes: vec![transfer_syntax.into()],
        scp_role: false,
    }
}

async fn connect(server: &Server, proposals: &[Proposal]) -> Association {
    Association::connect(&peer(server), proposals).await.unwrap()
}

/// A Secondary Capture object of about `pixels` bytes, in Explicit VR Little Endian.
fn object(sop_instance_uid: &str, pixels: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut short = |group: u16, element: u16, vr: &str, value: &str, padding: char| {
        let mut value = value.to_owned();
        if value.len() % 2 == 1 {
            value.push(padding);
        }
        out.extend_from_slice(&group.to_le_bytes());
        out.extend_from_slice(&element.to_le_bytes());
        out.extend_from_slice(vr.as_bytes());
        out.extend_from_slice(&(value.len() as u16).to_le_bytes());
        out.extend_from_slice(value.as_bytes());
    };
    short(0x0008, 0x0016, "UI", SECONDARY_CAPTURE, '\0');
    short(0x0008, 0x0018, "UI", sop_instance_uid, '\0');
    short(0x0008, 0x0060, "CS", "OT", ' ');
    short(0x0010, 0x0010, "PN", "TEST^DIMSE", ' ');
    short(0x0010, 0x0020, "LO", "D1", ' ');
    short(0x0020, 0x000D, "UI", "1.2.826.1", '\0');
    short(0x0020, 0x000E, "UI", "1.2.826.1.1", '\0');
    out.extend_from_slice(b"\xE0\x7F\x10\x00OB\0\0");
    out.extend_from_slice(&(pixels as u32).to_le_bytes());
    out.extend((0..pixels).map(|n| (n % 251) as u8));
    out
}

async fn store(
    association: &mut Association,
    sop_instance_uid: &str,
    data_set: &[u8],
) -> Result<Status, ScuError> {
    let chunks: Vec<_> = data_set.chunks(70_001).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    let mut chunks = std::pin::pin!(stream::iter(chunks));
    let uid = |text| Uid::parse(text).unwrap();
    association.store(&uid(SECONDARY_CAPTURE), &uid(sop_instance_uid), EXPLICIT, chunks.as_mut()).await
}

/// Data sets of the files that a server wrote, by file name.
fn received(server: &Server) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(server.directory.path()).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| data_set_of(path)).collect()
}

fn data_set_of(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    let Ok(MetaProgress::Complete(meta)) = read_meta(&bytes) else { panic!("{}", path.display()) };
    bytes[meta.data_set_offset..].to_vec()
}

#[tokio::test]
async fn an_echo_is_answered() {
    let Some(server) = dcmtk::storescp(&[]) else { return };
    let mut association = connect(&server, &[proposal(VERIFICATION, IMPLICIT)]).await;
    assert_eq!(association.echo().await.unwrap(), Status::SUCCESS);
    assert_eq!(association.echo().await.unwrap(), Status::SUCCESS);
    association.release().await;
}

#[tokio::test]
async fn objects_of_all_sizes_arrive_byte_for_byte_whatever_the_pdu_length() {
    let sizes = [0, 2, 4096, 16_384, 131_072, 3_000_002];
    for options in [&["--max-pdu", "4096"], &["--max-pdu", "16384"], &["--max-pdu", "131072"]] {
        let Some(server) = dcmtk::storescp(options) else { return };
        let mut association = connect(&server, &[proposal(SECONDARY_CAPTURE, EXPLICIT)]).await;
        let mut sent = Vec::new();
        for (number, pixels) in sizes.into_iter().enumerate() {
            let uid = format!("1.2.826.1.1.{number}");
            let data_set = object(&uid, pixels);
            assert_eq!(store(&mut association, &uid, &data_set).await.unwrap(), Status::SUCCESS);
            sent.push(data_set);
        }
        association.release().await;
        assert!(received(&server) == sent, "{options:?}");
    }
}

#[tokio::test]
async fn a_rejection_is_told_in_plain_words() {
    let Some(server) = dcmtk::storescp(&["--refuse"]) else { return };
    let error = Association::connect(&peer(&server), &[proposal(VERIFICATION, IMPLICIT)]).await.unwrap_err();
    assert!(matches!(&error, ScuError::Rejected(why) if why.contains("1/1/1")), "{error}");
    let Some(server) = dcmtk::dcmqrscp() else { return };
    let mut stranger = peer(&server);
    stranger.called_ae_title = AeTitle::parse("NOBODY").unwrap();
    let error = Association::connect(&stranger, &[proposal(VERIFICATION, IMPLICIT)]).await.unwrap_err();
    assert!(matches!(&error, ScuError::Rejected(why) if why.contains("called AE title NOBODY")), "{error}");
}

#[tokio::test]
async fn an_abort_during_or_after_an_object_is_known_as_one() {
    for option in ["--abort-during", "--abort-after"] {
        let Some(server) = dcmtk::storescp(&[option]) else { return };
        let mut association = connect(&server, &[proposal(SECONDARY_CAPTURE, EXPLICIT)]).await;
        let stored = store(&mut association, "1.2.826.1.1.1", &object("1.2.826.1.1.1", 5_000_000)).await;
        assert!(matches!(stored, Err(ScuError::Aborted)), "{option}: {stored:?}");
    }
}

#[tokio::test]
async fn what_was_stored_is_found() {
    let Some(server) = dcmtk::dcmqrscp() else { return };
    let proposals = [proposal(SECONDARY_CAPTURE, EXPLICIT), proposal(STUDY_ROOT, IMPLICIT)];
    let mut association = connect(&server, &proposals).await;
    for number in 0..5 {
        let uid = format!("1.2.826.1.1.{number}");
        assert_eq!(store(&mut association, &uid, &object(&uid, 100)).await.unwrap(), Status::SUCCESS);
    }
    let identifier = [
        &b"\x08\0\x18\0\0\0\0\0"[..],
        b"\x08\0\x52\0\x06\0\0\0IMAGE ",
        b"\x20\0\x0D\0\x0A\0\0\x001.2.826.1\0",
        b"\x20\0\x0E\0\x0C\0\0\x001.2.826.1.1\0",
    ]
    .concat();
    let mut found = 0;
    let status = association.find(STUDY_ROOT, &identifier, |answer| {
        assert!(answer.windows(12).any(|bytes| bytes.starts_with(b"1.2.826.1.1.")));
        found += 1;
        true
    });
    assert_eq!(status.await.unwrap(), Status::SUCCESS);
    assert_eq!(found, 5);
    let mut taken = 0;
    let status = association.find(STUDY_ROOT, &identifier, |_| {
        taken += 1;
        taken < 2
    });
    // DCMTK may have sent everything before it reads the cancel.
    assert!(matches!(status.await.unwrap(), Status::CANCEL | Status::SUCCESS));
    assert_eq!(taken, 2);
    association.release().await;
}

fn relaypacs(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_relaypacs")).args(arguments).output().unwrap()
}

fn lines(output: &Output) -> Vec<serde_json::Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_commands_echo_send_and_find_work_on_a_real_archive() {
    let Some(server) = dcmtk::dcmqrscp() else { return };
    let remote = format!("ARCHIVE@127.0.0.1:{}", server.port);
    let echoed = relaypacs(&["echo", &remote]);
    assert!(echoed.status.success() && String::from_utf8_lossy(&echoed.stdout).contains("answered 0000"));

    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let files = ["ct-1.dcm", "ct-2.dcm", "ct-3.dcm"].map(|name| testdata.join(name).display().to_string());
    let sent = relaypacs(&["send", "--json", &remote, &files[0], &files[1], &files[2]]);
    let results = lines(&sent);
    assert!(sent.status.success(), "{results:?}");
    assert!(results.len() == 3 && results.iter().all(|line| line["status"] == "0000"), "{results:?}");

    let found = relaypacs(&["find", "--json", &remote, "--level", "STUDY", "-k", "StudyInstanceUID"]);
    assert!(found.status.success());
    let studies = lines(&found);
    assert!(studies.iter().all(|study| study["0020000D"]["Value"][0].is_string()) && !studies.is_empty());
    let patient_id = "0010,0020=NO SUCH PATIENT";
    let found = relaypacs(&["find", "--json", &remote, "-k", patient_id]);
    assert!(found.status.success() && lines(&found).is_empty());
}

#[test]
fn an_object_that_can_t_be_sent_fails_the_command_but_not_the_others() {
    let Some(server) = dcmtk::storescp(&[]) else { return };
    let remote = format!("STORESCP@127.0.0.1:{}", server.port);
    let files = tempfile::tempdir().unwrap();
    let good = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/ct-1.dcm");
    let bad = files.path().join("bad.dcm");
    std::fs::write(&bad, "no object").unwrap();
    let (good, bad) = (good.display().to_string(), bad.display().to_string());
    let sent = relaypacs(&["send", "--json", "--calling", "SENDER", &remote, &bad, &good]);
    assert_eq!(sent.status.code(), Some(1));
    let results: Vec<_> = lines(&sent).into_iter().map(|line| line["result"].clone()).collect();
    assert_eq!(results, ["failed", "stored"]);
    assert!(received(&server) == [data_set_of(Path::new(&good))]);

    drop(server);
    let echoed = relaypacs(&["echo", &remote]);
    assert_eq!(echoed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&echoed.stderr).contains("can't be resolved or connected"));
}
