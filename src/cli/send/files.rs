//! The files to send: found, what they are read from their beginning, their data sets streamed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::{Stream, stream};

use crate::dicom::part10::{FileMeta, MetaProgress, read_meta};
use crate::dicom::{HeaderScanner, ScanLimits, TransferSyntax, Uid};

/// DICOMDIR describes a medium; it is not an object to store (PS3.4 annex H).
const MEDIA_STORAGE_DIRECTORY: &str = "1.2.840.10008.1.3.10";
/// File meta is looked for in so many bytes; `read_meta` gives up earlier.
const META_LIMIT: usize = 128 << 10;
/// What is read of a file first, and at a time until it has named its object.
const HEAD: u64 = 4 << 10;
/// Bytes of a data set read at once.
const CHUNK: usize = 256 << 10;

/// A file that may be sent, or why not.
pub enum Candidate {
    Object(Object),
    /// Found below a directory and nothing to send.
    Skipped {
        path: String,
        reason: String,
    },
    /// Named, and can't be sent.
    Unreadable {
        path: String,
        reason: String,
    },
}

/// One object on disk.
pub struct Object {
    /// Its path, for people.
    pub name: String,
    pub path: PathBuf,
    pub sop_class_uid: Uid,
    pub sop_instance_uid: Uid,
    pub transfer_syntax_uid: String,
    pub data_set_offset: u64,
}

impl Object {
    /// SOP class and transfer syntax.
    pub fn context(&self) -> (String, String) {
        (self.sop_class_uid.to_string(), self.transfer_syntax_uid.clone())
    }

    /// The data set in chunks. Each is read by a blocking thread.
    pub fn data_set(&self) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let begin = (self.path.clone(), None, self.data_set_offset);
        stream::try_unfold(begin, |(path, file, offset): (PathBuf, Option<File>, u64)| async move {
            let read = move || {
                let mut file = match file {
                    Some(file) => file,
                    None => open_at(&path, offset)?,
                };
                let mut chunk = Vec::with_capacity(CHUNK);
                (&mut file).take(CHUNK as u64).read_to_end(&mut chunk)?;
                let next = (path, Some(file), offset);
                io::Result::Ok((!chunk.is_empty()).then(|| (Bytes::from(chunk), next)))
            };
            tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
        })
    }
}

fn open_at(path: &Path, offset: u64) -> io::Result<File> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    Ok(file)
}

/// All files at and below `paths`, in the order given and by name.
pub fn find(paths: &[PathBuf]) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for path in paths {
        if path.is_dir() {
            walk(path, &mut candidates);
        } else {
            candidates.push(match inspect(path) {
                Ok(object) => Candidate::Object(object),
                Err(reason) => Candidate::Unreadable { path: path.display().to_string(), reason },
            });
        }
    }
    candidates
}

/// Goes through a directory without recursion. Symbolic links to directories are not followed:
/// they may lead in circles.
fn walk(directory: &Path, candidates: &mut Vec<Candidate>) {
    let mut ahead = vec![directory.to_owned()];
    while let Some(path) = ahead.pop() {
        let is_real_directory = path == directory || path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        if !is_real_directory {
            if path.is_file() {
                candidates.push(below(&path));
            }
            continue;
        }
        match entries(&path) {
            Ok(entries) => ahead.extend(entries.into_iter().rev()),
            Err(error) => candidates
                .push(Candidate::Unreadable { path: path.display().to_string(), reason: error.to_string() }),
        }
    }
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    entries.sort();
    Ok(entries)
}

/// Below a directory all kinds of files may lie.
fn below(path: &Path) -> Candidate {
    let name = path.display().to_string();
    match inspect(path) {
        Ok(object) if object.sop_class_uid.as_str() == MEDIA_STORAGE_DIRECTORY => {
            Candidate::Skipped { path: name, reason: "a DICOMDIR".to_owned() }
        }
        Ok(object) => Candidate::Object(object),
        Err(reason) => Candidate::Skipped { path: name, reason },
    }
}

/// What a file is, its data set says. File meta, which is rewritten carelessly, is asked only for
/// what that leaves open.
fn inspect(path: &Path) -> Result<Object, String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let (meta, head) = file_meta(&mut file)?;
    let (class, instance) = sop_common(&mut file, &meta, &head).map_err(|error| error.to_string())?;
    let from_meta = |value: Option<String>, what: &str| {
        let value = value.ok_or_else(|| format!("neither its data set nor its file meta names a {what}"))?;
        Uid::parse(&value).map_err(|_| format!("its {what} is not a UID"))
    };
    let or_from_meta = |uid: Option<Uid>, value, what: &str| uid.map_or_else(|| from_meta(value, what), Ok);
    Ok(Object {
        name: path.display().to_string(),
        path: path.to_owned(),
        sop_class_uid: or_from_meta(class, meta.media_storage_sop_class_uid, "SOP class")?,
        sop_instance_uid: or_from_meta(instance, meta.media_storage_sop_instance_uid, "SOP instance")?,
        transfer_syntax_uid: meta.transfer_syntax_uid,
        data_set_offset: meta.data_set_offset as u64,
    })
}

/// The file meta, and the bytes read for it.
fn file_meta(file: &mut File) -> Result<(FileMeta, Vec<u8>), String> {
    let mut head = Vec::new();
    // Most file meta fits the first step, and many files are looked at.
    for step in [HEAD, META_LIMIT as u64] {
        file.by_ref().take(step).read_to_end(&mut head).map_err(|error| error.to_string())?;
        if let MetaProgress::Complete(meta) = read_meta(&head)? {
            return Ok((meta, head));
        }
    }
    Err("not a Part 10 file".to_owned())
}

/// SOP Class and SOP Instance UID of the data set. One that can't be read, or only in a syntax that
/// we don't know, names nothing: whether it can be stored is for the peer to say.
fn sop_common(file: &mut File, meta: &FileMeta, head: &[u8]) -> io::Result<(Option<Uid>, Option<Uid>)> {
    let Some(syntax) = TransferSyntax::by_uid(&meta.transfer_syntax_uid) else { return Ok((None, None)) };
    let mut scanner = HeaderScanner::new(syntax, ScanLimits::default());
    let mut bytes = head[meta.data_set_offset..].to_vec();
    while scanner.push(&bytes).is_ok() && !scanner.is_past_sop_common() {
        bytes.clear();
        if file.by_ref().take(HEAD).read_to_end(&mut bytes)? == 0 {
            break;
        }
    }
    Ok(scanner.sop_common())
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::dicom::part10::prefix;

    fn part10(data_set: &[u8]) -> Vec<u8> {
        let uid = |text| Uid::parse(text).unwrap();
        let class = uid("1.2.840.10008.5.1.4.1.1.7");
        [&prefix(&class, &uid("1.2.3"), "1.2.840.10008.1.2.1", None)[..], data_set].concat()
    }

    #[tokio::test]
    async fn directories_are_searched_and_data_sets_streamed_whole() {
        let directory = tempfile::tempdir().unwrap();
        let data_set: Vec<u8> = (0..600_000_u32).map(|n| n as u8).collect();
        std::fs::create_dir(directory.path().join("b")).unwrap();
        std::fs::write(directory.path().join("b/object"), part10(&data_set)).unwrap();
        std::fs::write(directory.path().join("a.txt"), "not an object").unwrap();
        std::os::unix::fs::symlink(directory.path(), directory.path().join("circle")).unwrap();
        let candidates = find(&[directory.path().to_owned(), directory.path().join("missing")]);
        let [Candidate::Skipped { .. }, Candidate::Object(object), Candidate::Unreadable { .. }] =
            &candidates[..]
        else {
            panic!("{}", candidates.len())
        };
        assert_eq!(object.sop_instance_uid.as_str(), "1.2.3");
        let mut streamed = Vec::new();
        let mut chunks = std::pin::pin!(object.data_set());
        while let Some(chunk) = chunks.next().await {
            streamed.extend_from_slice(&chunk.unwrap());
        }
        assert!(streamed == data_set);
    }

    #[test]
    fn an_object_is_named_by_its_data_set_and_by_file_meta_only_for_want_of_that() {
        let directory = tempfile::tempdir().unwrap();
        let named = |data_set: &[u8]| {
            let path = directory.path().join("object");
            std::fs::write(&path, part10(data_set)).unwrap();
            let object = inspect(&path).unwrap();
            (object.sop_class_uid.to_string(), object.sop_instance_uid.to_string())
        };
        let (class, instance) = (b"\x08\0\x16\0UI\x04\x001.9\0", b"\x08\0\x18\0UI\x04\x001.8\0");
        let behind = b"\x08\0\x20\0DA\0\0";
        let of_meta = "1.2.840.10008.5.1.4.1.1.7".to_owned();
        let both = [&class[..], instance, behind].concat();
        assert_eq!(named(&both), ("1.9".into(), "1.8".into()));
        // The last element of the file, and one beyond what is read first.
        assert_eq!(named(&[&class[..], instance].concat()), ("1.9".into(), "1.8".into()));
        let far = [&b"\x08\0\x01\0UT\0\0\0\x40\0\0"[..], &[b'x'; 0x4000], &both].concat();
        assert_eq!(named(&far), ("1.9".into(), "1.8".into()));
        assert_eq!(named(&[&instance[..], behind].concat()), (of_meta.clone(), "1.8".into()));
        assert_eq!(named(behind), (of_meta.clone(), "1.2.3".into()));
        assert_eq!(named(b"no data set at all"), (of_meta, "1.2.3".into()));
    }
}
