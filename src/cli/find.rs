//! `relaypacs find`: C-FIND at a peer (PS3.4 §C.4.1). Answers are decoded by our own tokenizer,
//! whose depth and size are limited; a broken answer is counted and passed over.

use clap::{Args, ValueEnum};
use dicom_core::Tag;
use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_dictionary_std::{StandardDataDictionary, tags};

use super::output;
use super::remote::RemoteArgs;
use crate::config::Config;
use crate::dicom::dataset::{Dataset, Value};
use crate::dicom::metadata::MetadataReader;
use crate::dicom::sop_class::{PATIENT_ROOT_FIND, STUDY_ROOT_FIND};
use crate::dicom::status::Status;
use crate::dicom::transfer_syntax::{EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN};
use crate::dicom::{ScanLimits, TransferSyntax, json};
use crate::dimse::scu::{Association, Proposal};
use crate::lifecycle::Exit;

mod identifier;

use identifier::{Identifier, Key};

/// Limits of an answer; the association takes none of more than 1 MiB.
const LIMITS: ScanLimits = ScanLimits { depth: 16, elements: 10_000, non_pixel_bytes: 1 << 20 };

/// Ask a peer what it has (C-FIND)
#[derive(Debug, Args)]
pub struct FindArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Query/Retrieve level
    #[arg(long, value_enum, ignore_case = true, default_value_t = Level::Study)]
    level: Level,
    /// Key with the value to match, or without, to see it: PatientID=X, StudyDate, 0010,0010=A*
    #[arg(short, long = "key", value_name = "KEY[=VALUE]")]
    key: Vec<Key>,
    /// Information model; at level PATIENT it is the patient root
    #[arg(long, value_enum, ignore_case = true, default_value_t = Model::Study)]
    model: Model,
    /// Cancel after so many answers
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    limit: usize,
    /// DICOM JSON, one object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Model {
    Patient,
    Study,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    Patient,
    Study,
    Series,
    Image,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Patient => "PATIENT",
            Self::Study => "STUDY",
            Self::Series => "SERIES",
            Self::Image => "IMAGE",
        }
    }

    /// What is shown when no key says what; the unique key of the level (PS3.4 §C.6) is last.
    fn shown(self) -> &'static [Tag] {
        match self {
            Self::Patient => &[tags::PATIENT_NAME, tags::PATIENT_ID],
            Self::Study => &[
                tags::PATIENT_ID,
                tags::PATIENT_NAME,
                tags::STUDY_DATE,
                tags::STUDY_DESCRIPTION,
                tags::STUDY_INSTANCE_UID,
            ],
            Self::Series => {
                &[tags::MODALITY, tags::SERIES_NUMBER, tags::SERIES_DESCRIPTION, tags::SERIES_INSTANCE_UID]
            }
            Self::Image => &[tags::INSTANCE_NUMBER, tags::SOP_CLASS_UID, tags::SOP_INSTANCE_UID],
        }
    }
}

impl FindArgs {
    fn information_model(&self) -> &'static str {
        let patient_root = self.model == Model::Patient || self.level == Level::Patient;
        if patient_root { PATIENT_ROOT_FIND } else { STUDY_ROOT_FIND }
    }

    /// Keys as asked for; what to show is added when nothing was said of it.
    fn keys(&self) -> Vec<Key> {
        let mut keys = self.key.clone();
        let says_what_to_show = keys.iter().any(|key| key.value.is_empty());
        let shown = self.level.shown();
        let missing = if says_what_to_show { &shown[shown.len() - 1..] } else { shown };
        for tag in missing {
            if !keys.iter().any(|key| key.tag == *tag) {
                keys.push(Key { tag: *tag, value: String::new() });
            }
        }
        keys
    }
}

pub async fn run(args: FindArgs, config: &Config) -> anyhow::Result<Exit> {
    let peer = args.remote.peer(config)?;
    let keys = args.keys();
    let identifier = Identifier::new(args.level.name(), &keys)?;
    let model = args.information_model();
    let proposal = Proposal {
        abstract_syntax: model.to_owned(),
        transfer_syntaxes: vec![EXPLICIT_LITTLE_ENDIAN.to_owned(), IMPLICIT_LITTLE_ENDIAN.to_owned()],
        scp_role: false,
    };
    let mut association = Association::connect(&peer, &[proposal]).await?;
    let Some((_, transfer_syntax)) = association.any_context(model) else {
        association.release().await;
        anyhow::bail!("{} does not accept C-FIND in this information model", peer.called_ae_title);
    };
    let mut answers = Answers::new(&args, &keys, transfer_syntax);
    let encoded = identifier.encode(transfer_syntax.encoding);
    let found = association.find(model, &encoded, |answer| answers.take(answer)).await;
    association.release().await;
    let status = found?;
    answers.finish(status)
}

/// Answers as they come: printed at once as JSON, gathered for a table.
struct Answers<'a> {
    keys: &'a [Key],
    transfer_syntax: &'static TransferSyntax,
    json: bool,
    limit: usize,
    rows: Vec<Vec<String>>,
    count: usize,
    broken: usize,
    unwritable: Option<anyhow::Error>,
}

impl<'a> Answers<'a> {
    fn new(args: &FindArgs, keys: &'a [Key], transfer_syntax: &'static TransferSyntax) -> Self {
        Self {
            keys,
            transfer_syntax,
            json: args.json,
            limit: args.limit,
            rows: Vec::new(),
            count: 0,
            broken: 0,
            unwritable: None,
        }
    }

    /// Takes an answer; whether more are wanted.
    fn take(&mut self, answer: &[u8]) -> bool {
        self.count += 1;
        match self.decode(answer) {
            Some(dataset) if self.json => {
                self.unwritable = output::json_line(&json::object(&dataset)).err();
            }
            Some(dataset) => {
                self.rows.push(self.keys.iter().map(|key| cell(&dataset, key.tag)).collect());
            }
            None => self.broken += 1,
        }
        self.count < self.limit && self.unwritable.is_none()
    }

    fn decode(&self, answer: &[u8]) -> Option<Dataset> {
        let mut reader = MetadataReader::new(self.transfer_syntax, LIMITS, "");
        reader.push(answer).ok()?;
        reader.finish().ok()
    }

    fn finish(self, status: Status) -> anyhow::Result<Exit> {
        if let Some(error) = self.unwritable {
            return Err(error);
        }
        if !self.json {
            output::table(self.keys.iter().map(|key| title(key.tag)).collect(), &self.rows)?;
        }
        let cut = self.count >= self.limit && matches!(status, Status::CANCEL | Status::SUCCESS);
        let limited = if cut { ", limited: there may be more (--limit)" } else { "" };
        eprintln!("{} answers, {} of them broken, status {status}{limited}", self.count, self.broken);
        let failed = self.broken > 0 || !(status == Status::SUCCESS || cut);
        Ok(if failed { Exit::Failed } else { Exit::Done })
    }
}

/// One line, whatever the peer sent.
fn cell(dataset: &Dataset, tag: Tag) -> String {
    let text = match dataset.get(tag).map(|element| &element.value) {
        Some(Value::Text(values)) => values.join("\\"),
        Some(Value::Sequence(items)) => format!("{} items", items.len()),
        Some(Value::Inline(bytes)) => format!("{} bytes", bytes.len()),
        Some(Value::BulkDataUri(_)) => "bulk data".to_owned(),
        None => String::new(),
    };
    text.replace(char::is_control, " ")
}

fn title(tag: Tag) -> String {
    let entry = StandardDataDictionary.by_tag(tag);
    entry.map_or_else(|| tag.to_string(), |entry| entry.alias().to_owned())
}
