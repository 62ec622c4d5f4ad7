//! An archive that does what it is told: takes, refuses, hangs, aborts, acknowledges and drops.
//! It speaks C-STORE, C-FIND and storage commitment, and reports on the requesting association.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use relaypacs::dicom::TransferSyntax;
use relaypacs::dicom::status::Status;
use relaypacs::dimse::associate::{AssociateAccept, ContextResult, RoleSelection, UserInformation};
use relaypacs::dimse::command::{Command, field};
use relaypacs::dimse::commitment_report;
use relaypacs::dimse::message::{MessageLimits, MessageStream, Received};
use relaypacs::dimse::pdu::{AbortReason, Incoming, PduError, PduStream};
use tokio::net::{TcpListener, TcpStream};

use super::instance::{CT, text};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Answers 0000 and keeps.
    Take,
    /// Answers 0000 and forgets.
    Drop,
    Answer(u16),
    /// Refuses one instance, takes the others.
    Dislike(String),
    /// Reads the object and never answers.
    Hang,
    AbortMidObject,
    /// Aborts on one instance, takes the others.
    AbortOn(String),
    /// Keeps the object and closes the connection instead of answering.
    Mute,
    /// Answers slowly.
    Slow(Duration),
}

#[derive(Debug)]
pub struct State {
    pub mode: Mode,
    pub held: BTreeMap<String, Vec<u8>>,
    /// SOP Instance UIDs of every C-STORE answered, in order.
    pub answered: Vec<String>,
    /// C-STORE requests, whatever became of them.
    pub asked_to_store: usize,
    pub associations: usize,
    /// SOP classes of services it does not offer.
    pub without: HashSet<String>,
    /// Takes commitment requests and never reports.
    pub silent: bool,
}

pub struct Archive {
    pub port: u16,
    pub state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl Archive {
    pub async fn start(mode: Mode) -> Archive {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State {
            mode,
            held: BTreeMap::new(),
            answered: Vec::new(),
            asked_to_store: 0,
            associations: 0,
            without: HashSet::new(),
            silent: false,
        };
        let state = Arc::new(Mutex::new(state));
        let task = tokio::spawn(accept(listener, Arc::clone(&state)));
        Archive { port, state, task }
    }

    pub fn set(&self, mode: Mode) {
        self.state.lock().mode = mode;
    }

    pub fn held(&self) -> usize {
        self.state.lock().held.len()
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut peers = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        // How an association ends is the node's affair.
        peers.spawn(async move { drop(associate(stream, state).await) });
    }
}

async fn associate(stream: TcpStream, state: Arc<Mutex<State>>) -> Result<(), PduError> {
    let mut pdus = PduStream::new(stream, 64 << 10)?;
    let Incoming::AssociateRequest(request) = pdus.receive().await? else { return Ok(()) };
    let without = state.lock().without.clone();
    let answer = |context: &relaypacs::dimse::associate::ProposedContext| ContextResult {
        id: context.id,
        result: if without.contains(&context.abstract_syntax) { 3 } else { 0 },
        transfer_syntax: context.transfer_syntaxes[0].clone(),
    };
    let results: Vec<ContextResult> = request.presentation_contexts.iter().map(answer).collect();
    let accepted = results.iter().filter(|context| context.result == 0);
    let syntaxes: BTreeMap<u8, String> =
        accepted.map(|context| (context.id, context.transfer_syntax.clone())).collect();
    let roles = request.user.roles.iter();
    pdus.send_accept(&AssociateAccept {
        echoed: request.echoed,
        application_context: request.application_context,
        presentation_contexts: results,
        user: UserInformation {
            max_length: 64 << 10,
            implementation_class_uid: Some("1.2.3".into()),
            roles: roles.map(|role| RoleSelection { scp: true, ..role.clone() }).collect(),
            ..UserInformation::default()
        },
    })
    .await?;
    state.lock().associations += 1;
    let limits = MessageLimits {
        presentation_context_ids: syntaxes.keys().copied().collect(),
        max_outgoing_pdu: 16 << 10,
        idle: Duration::from_secs(60),
    };
    Peer { messages: MessageStream::new(pdus, limits), syntaxes, state }.serve().await
}

struct Peer {
    messages: MessageStream,
    syntaxes: BTreeMap<u8, String>,
    state: Arc<Mutex<State>>,
}

impl Peer {
    async fn serve(mut self) -> Result<(), PduError> {
        loop {
            match self.messages.next().await? {
                Received::Command { presentation_context_id, command } => {
                    if !self.dispatch(presentation_context_id, command).await? {
                        return Ok(());
                    }
                }
                Received::ReleaseRequested => return self.messages.answer_release().await,
                Received::Aborted => return Ok(()),
            }
        }
    }

    async fn dispatch(&mut self, context: u8, command: Command) -> Result<bool, PduError> {
        match command.command_field {
            field::C_STORE_RQ => self.store(context, command).await,
            field::C_ECHO_RQ => self.answer(context, command.response(Status::SUCCESS)).await,
            field::C_FIND_RQ => self.find(context, command).await,
            field::N_ACTION_RQ => self.commit(context, command).await,
            field::N_EVENT_REPORT_RSP => Ok(true),
            other => panic!("a command that no delivery needs: {other:04X}"),
        }
    }

    async fn answer(&mut self, context: u8, response: Command) -> Result<bool, PduError> {
        self.messages.send(context, &response, None).await?;
        Ok(true)
    }

    async fn store(&mut self, context: u8, command: Command) -> Result<bool, PduError> {
        let uid = command.affected_sop_instance_uid.clone().unwrap();
        self.state.lock().asked_to_store += 1;
        let mode = self.state.lock().mode.clone();
        if mode == Mode::AbortMidObject || mode == Mode::AbortOn(uid.clone()) {
            self.messages.next_fragment().await?;
            self.messages.pdus().abort(AbortReason::SERVICE_USER).await;
            return Ok(false);
        }
        let data_set = self.messages.read_data_set(64 << 20).await?.unwrap();
        let status = match &mode {
            Mode::Hang => {
                std::future::pending::<()>().await;
                unreachable!()
            }
            Mode::Slow(pause) => {
                tokio::time::sleep(*pause).await;
                Status::SUCCESS
            }
            Mode::Answer(code) => Status(*code),
            Mode::Dislike(disliked) if *disliked == uid => Status(0xC000),
            _ => Status::SUCCESS,
        };
        {
            let mut state = self.state.lock();
            if status == Status::SUCCESS && mode != Mode::Drop {
                state.held.insert(uid.clone(), data_set.to_vec());
            }
            if mode == Mode::Mute {
                return Ok(false);
            }
            state.answered.push(uid);
        }
        self.answer(context, command.response(status)).await
    }

    /// Whatever was asked for: one response per instance held.
    async fn find(&mut self, context: u8, command: Command) -> Result<bool, PduError> {
        self.messages.read_data_set(1 << 20).await?;
        let held: Vec<String> = self.state.lock().held.keys().cloned().collect();
        let implicit = self.syntaxes[&context] == "1.2.840.10008.1.2";
        assert!(!implicit, "Explicit VR is proposed first");
        for uid in held {
            let identifier = text(0x0008, 0x0018, b"UI", &uid);
            let response = Command { has_data_set: true, ..command.response(Status::PENDING) };
            self.messages.send(context, &response, Some(&identifier)).await?;
        }
        self.answer(context, command.response(Status::SUCCESS)).await
    }

    async fn commit(&mut self, context: u8, command: Command) -> Result<bool, PduError> {
        let information = self.messages.read_data_set(4 << 20).await?.unwrap();
        let syntax = TransferSyntax::by_uid(&self.syntaxes[&context]).unwrap();
        let asked = commitment_report::parse(&information, syntax).unwrap();
        self.answer(context, command.response(Status::SUCCESS)).await?;
        if self.state.lock().silent {
            return Ok(true);
        }
        let held: HashSet<String> = self.state.lock().held.keys().cloned().collect();
        let (there, missing): (Vec<_>, Vec<_>) =
            asked.committed.iter().map(|uid| uid.as_str()).partition(|uid| held.contains(*uid));
        let mut report = text(0x0008, 0x1195, b"UI", asked.transaction_uid.as_str());
        report.extend(sequence(0x1198, &missing, true));
        report.extend(sequence(0x1199, &there, false));
        let event = if missing.is_empty() { 1 } else { 2 };
        let command = Command::n_event_report_rq(
            77,
            commitment_report::SOP_CLASS,
            commitment_report::SOP_INSTANCE,
            event,
        );
        self.messages.send(context, &command, Some(&report)).await?;
        Ok(true)
    }
}

fn sequence(element: u16, uids: &[&str], failed: bool) -> Vec<u8> {
    let mut items = Vec::new();
    for uid in uids {
        let mut item = [text(0x0008, 0x1150, b"UI", CT), text(0x0008, 0x1155, b"UI", uid)].concat();
        if failed {
            item.extend(b"\x08\x00\x97\x11US\x02\0\x12\x01");
        }
        items.extend(b"\xFE\xFF\x00\xE0");
        items.extend((item.len() as u32).to_le_bytes());
        items.extend(item);
    }
    if items.is_empty() {
        return items;
    }
    let mut out = Vec::new();
    out.extend(0x0008_u16.to_le_bytes());
    out.extend(element.to_le_bytes());
    out.extend(b"SQ\0\0");
    out.extend((items.len() as u32).to_le_bytes());
    out.extend(items);
    out
}
