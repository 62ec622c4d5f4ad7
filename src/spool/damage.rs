//! What was acknowledged and can't be read any more. Each object is told of once, in the log, and
//! counted until it is received anew or a person has seen to it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::entry::EntryId;
use super::segment_head::in_file_at;
use super::state::EntryState;
use crate::failpoint;

/// So many are counted, and no more; lists name all.
const MOST: usize = 1_000_000;
/// Files in `review/` that name losses of which the projection knows nothing any more.
const LIST: &str = "lost-";

/// Whether the disk itself can't read it: a bad sector, most often. The page cache makes EIO of all of these; past it
/// the kernel says what the device said (`blk_status_to_errno`).
pub fn is_unreadable(error: &io::Error) -> bool {
    const ERRORS: [Errno; 6] =
        [Errno::IO, Errno::NODATA, Errno::NOLINK, Errno::REMOTEIO, Errno::TIMEDOUT, Errno::ILSEQ];
    ERRORS.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[derive(Debug)]
pub struct Damage {
    review: PathBuf,
    known: Mutex<BTreeSet<EntryId>>,
    /// Named by the lists of `review/`.
    listed: Mutex<BTreeSet<EntryId>>,
}

impl Damage {
    /// With what recovery has found, and what was listed before.
    pub fn open(review: &Path, found: &[EntryId]) -> io::Result<Damage> {
        let known = found.iter().take(MOST).copied().collect();
        let damage = Damage { review: review.to_owned(), known: Mutex::new(known), listed: Mutex::default() };
        damage.lists()?;
        Ok(damage)
    }

    /// What the lists in `review/` name; counted anew with each look, as a person removes them.
    pub fn lists(&self) -> io::Result<Vec<Missing>> {
        let mut missing = Vec::new();
        for file in std::fs::read_dir(&self.review)? {
            let (path, name) = file.map(|file| (file.path(), file.file_name()))?;
            if name.to_string_lossy().starts_with(LIST) && path.extension().is_some_and(|end| end == "tsv") {
                let bytes = std::fs::read(&path).map_err(in_file_at(&path))?;
                let text = String::from_utf8_lossy(&bytes);
                missing.extend(text.lines().filter(|line| !line.trim().is_empty()).map(Missing::of_line));
            }
        }
        *self.listed.lock() = missing.iter().map(|missing| missing.entry).take(MOST).collect();
        Ok(missing)
    }

    /// Lists what only another still knew of; again and again, when asked again.
    pub fn list_known_to(&self, who: &str, missing: &[Missing]) -> io::Result<()> {
        let lines: String = missing.iter().map(Missing::line).collect();
        let first = missing.first().map_or(0, |missing| missing.entry.0);
        write(&self.review, &format!("{LIST}{who}-{first}.tsv"), &lines)?;
        self.lists().map(drop)
    }

    pub fn note(&self, entry: EntryId, detail: &str) {
        let mut known = self.known.lock();
        if known.len() >= MOST || !known.insert(entry) {
            return;
        }
        tracing::error!(%entry, detail, "an acknowledged object can't be read any more; see `relaypacs spool verify`");
        if known.len() == MOST {
            tracing::error!(
                "no more damaged objects than {MOST} are counted; `relaypacs spool verify` finds the others"
            );
        }
    }

    pub fn has(&self, entry: EntryId) -> bool {
        self.known.lock().contains(&entry)
    }

    /// Whether the log lost it, and all that is known of it is in a list.
    pub fn is_listed(&self, entry: EntryId) -> bool {
        self.listed.lock().contains(&entry)
    }

    /// It was freed: another copy is there.
    pub fn forget(&self, entry: EntryId) {
        self.known.lock().remove(&entry);
    }

    pub fn count(&self) -> u64 {
        (self.known.lock().len() + self.listed.lock().len()) as u64
    }
}

/// An acknowledged object that nothing here holds any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub entry: EntryId,
    pub sop_instance_uid: String,
    pub data_set_sha256: String,
}

impl Missing {
    fn line(&self) -> String {
        let Missing { entry, sop_instance_uid, data_set_sha256 } = self;
        format!("{entry}\t{sop_instance_uid}\t{data_set_sha256}\t\n")
    }

    fn of_line(line: &str) -> Missing {
        let mut words = line.split('\t');
        let mut word = || words.next().unwrap_or_default().to_owned();
        Missing {
            entry: EntryId(word().parse().unwrap_or(0)),
            sop_instance_uid: word(),
            data_set_sha256: word(),
        }
    }
}

/// Lists losses in `review/`: entry, SOP Instance UID, SHA-256, and where each was delivered.
pub fn list(review: &Path, lost: &[EntryState]) -> io::Result<()> {
    let mut lines = String::new();
    for state in lost {
        let deliveries: Vec<String> = state
            .deliveries
            .iter()
            .map(|delivery| format!("{}:{:?}", delivery.destination, delivery.state))
            .collect();
        lines += &format!(
            "{}\t{}\t{}\t{}\n",
            state.id,
            state.sop_instance_uid,
            state.data_set_sha256,
            deliveries.join(",").to_lowercase()
        );
    }
    write(review, &new_list(), &lines)
}

fn new_list() -> String {
    format!("{LIST}{}.tsv", ulid::Ulid::new())
}

/// Durable: what it names is known from nowhere else.
fn write(review: &Path, name: &str, lines: &str) -> io::Result<()> {
    let (path, unfinished) = (review.join(name), review.join(format!("{name}.new")));
    let mut file = File::create(&unfinished)?;
    file.write_all(lines.as_bytes())?;
    failpoint::sync("loss_list", || file.sync_all())?;
    std::fs::rename(&unfinished, &path)?;
    failpoint::sync("loss_list", || File::open(review)?.sync_all())
}

/// Records that were acknowledged and of which a replay could read nothing, not even what they were: by their numbers,
/// which are those of entries where they were objects as they first came, and not copies.
#[derive(Debug, Default)]
pub struct Unreadable {
    numbers: BTreeSet<u64>,
    /// Those for which there was no room, a stretch a line: whether one of them is there after all is not followed.
    beyond: Vec<RangeInclusive<u64>>,
    /// The list's name, once there is one.
    list: Option<String>,
    has_changed: bool,
}

impl Unreadable {
    pub fn note(&mut self, numbers: RangeInclusive<u64>) {
        let room = MOST.saturating_sub(self.numbers.len()) as u64;
        let (first, last) = (*numbers.start(), *numbers.end());
        self.numbers.extend(numbers.take(room as usize));
        if last - first >= room {
            self.beyond.push(first + room..=last);
        }
        self.has_changed = true;
    }

    /// Nothing is missing of this entry after all.
    pub fn forget(&mut self, entry: EntryId) {
        self.has_changed |= self.numbers.remove(&entry.0);
    }

    pub fn count(&self) -> u64 {
        let beyond = self.beyond.iter().map(|numbers| numbers.end() - numbers.start() + 1);
        self.numbers.len() as u64 + beyond.sum::<u64>()
    }

    /// Brings the list in `review/` up to date.
    pub fn save(&mut self, review: &Path) -> io::Result<()> {
        if !std::mem::take(&mut self.has_changed) {
            return Ok(());
        }
        let name = self.list.get_or_insert_with(new_list);
        let mut lines: String = self.numbers.iter().map(|number| format!("{number}\t\t\t\n")).collect();
        lines.extend(
            self.beyond.iter().map(|beyond| format!("{} to {}\t\t\t\n", beyond.start(), beyond.end())),
        );
        write(review, name, &lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_more_than_are_counted_one_by_one_none_is_left_out() {
        let review = tempfile::tempdir().unwrap();
        let (mut unreadable, most) = (Unreadable::default(), MOST as u64);
        unreadable.note(11..=most);
        unreadable.note(most + 1..=most + 60);
        assert_eq!(unreadable.count(), most + 50);
        unreadable.save(review.path()).unwrap();
        let list = std::fs::read_dir(review.path()).unwrap().next().unwrap().unwrap().path();
        let text = std::fs::read_to_string(list).unwrap();
        assert_eq!(text.lines().last().unwrap().trim(), format!("{} to {}", most + 11, most + 60));
    }
}
