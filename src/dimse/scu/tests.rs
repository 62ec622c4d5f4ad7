//! The requestor against an acceptor that is made of the same layers, and misbehaves as told.

use futures_util::stream;
use tokio::net::TcpListener;

use super::*;
use crate::dicom::transfer_syntax::IMPLICIT_LITTLE_ENDIAN;
use crate::dimse::associate::{AssociateAccept, AssociateRequest, ContextResult, UserInformation};
use crate::dimse::message::MessageLimits;
use crate::dimse::pdu::{Incoming, PduStream};

const SOON: Duration = Duration::from_secs(20);
const COMMITMENT: &str = "1.2.840.10008.1.20.1";
const STUDY_ROOT: &str = "1.2.840.10008.5.1.4.1.2.2.1";
const CT: &str = "1.2.840.10008.5.1.4.1.1.2";

struct Listener(TcpListener);

async fn listen() -> Listener {
    Listener(TcpListener::bind("127.0.0.1:0").await.unwrap())
}

impl Listener {
    fn peer(&self, timeout: Duration) -> Peer {
        Peer {
            host: "127.0.0.1".into(),
            port: self.0.local_addr().unwrap().port(),
            called_ae_title: AeTitle::parse("ARCHIVE").unwrap(),
            calling_ae_title: AeTitle::parse("RELAYPACS").unwrap(),
            timeout,
            never: [].into(),
        }
    }

    /// Accepts an association with all its contexts but those of `refused`.
    async fn accept(&self, refused: &str) -> MessageStream {
        let mut pdus = PduStream::new(self.0.accept().await.unwrap().0, 16384).unwrap();
        pdus.set_close_limit(SOON);
        let Ok(Incoming::AssociateRequest(request)) = pdus.receive().await else { panic!() };
        let accept = answer(request, refused);
        let limits = MessageLimits {
            presentation_context_ids: accept.presentation_contexts.iter().map(|c| c.id).collect(),
            max_outgoing_pdu: 16384,
            idle: SOON,
        };
        pdus.send_accept(&accept).await.unwrap();
        MessageStream::new(pdus, limits)
    }
}

fn answer(request: AssociateRequest, refused: &str) -> AssociateAccept {
    let contexts = request.presentation_contexts.into_iter().map(|context| ContextResult {
        id: context.id,
        result: if context.abstract_syntax == refused { 3 } else { 0 },
        transfer_syntax: context.transfer_syntaxes[0].clone(),
    });
    AssociateAccept {
        echoed: request.echoed,
        application_context: request.application_context,
        presentation_contexts: contexts.collect(),
        user: UserInformation { max_length: 4096, ..UserInformation::default() },
    }
}

async fn connect(listener: &Listener, timeout: Duration) -> (Association, MessageStream) {
    connect_refusing(listener, timeout, "").await
}

async fn connect_refusing(
    listener: &Listener,
    timeout: Duration,
    refused: &str,
) -> (Association, MessageStream) {
    let proposals = [VERIFICATION, COMMITMENT, STUDY_ROOT, CT].map(|abstract_syntax| Proposal {
        abstract_syntax: abstract_syntax.to_owned(),
        transfer_syntaxes: vec![IMPLICIT_LITTLE_ENDIAN.to_owned()],
        scp_role: false,
    });
    let peer = listener.peer(timeout);
    let (association, messages) =
        tokio::join!(Association::connect(&peer, &proposals), listener.accept(refused));
    (association.unwrap(), messages)
}

async fn request(messages: &mut MessageStream) -> (u8, Command) {
    match messages.next().await.unwrap() {
        Received::Command { presentation_context_id, command } => (presentation_context_id, command),
        other => panic!("{other:?}"),
    }
}

async fn store(
    association: &mut Association,
    chunks: Vec<std::io::Result<Bytes>>,
) -> Result<Status, ScuError> {
    let mut chunks = std::pin::pin!(stream::iter(chunks));
    let uid = |text| Uid::parse(text).unwrap();
    association.store(&uid(CT), &uid("1.2.3"), IMPLICIT_LITTLE_ENDIAN, chunks.as_mut()).await
}

fn object() -> Vec<std::io::Result<Bytes>> {
    (0..20).map(|_| Ok(Bytes::from(vec![7; 10_000]))).collect()
}

/// Reads the data set of the current message to its end, or to the abort that cuts it off.
async fn is_complete(messages: &mut MessageStream) -> bool {
    loop {
        match messages.next_fragment().await {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(PduError::Aborted) => return false,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn an_echo_and_a_release_are_answered() {
    let listener = listen().await;
    let (mut association, mut messages) = connect(&listener, SOON).await;
    let serving = async {
        let (context, echo) = request(&mut messages).await;
        messages.send(context, &echo.response(Status::SUCCESS), None).await.unwrap();
        assert!(matches!(messages.next().await, Ok(Received::ReleaseRequested)));
        messages.answer_release().await.unwrap();
    };
    let asking = async {
        assert_eq!(association.echo().await.unwrap(), Status::SUCCESS);
        association.release().await;
    };
    tokio::join!(serving, asking);
}

#[tokio::test]
async fn a_refused_context_fails_its_operation_alone() {
    let listener = listen().await;
    let (mut association, mut messages) = connect_refusing(&listener, SOON, CT).await;
    assert!(matches!(store(&mut association, object()).await, Err(ScuError::NoContext(_))));
    let serving = async {
        let (context, echo) = request(&mut messages).await;
        messages.send(context, &echo.response(Status::SUCCESS), None).await.unwrap();
    };
    let (echoed, ()) = tokio::join!(association.echo(), serving);
    assert_eq!(echoed.unwrap(), Status::SUCCESS);
}

#[tokio::test]
async fn an_answer_before_the_last_fragment_counts_when_all_is_sent() {
    let listener = listen().await;
    let (mut association, mut messages) = connect(&listener, SOON).await;
    let serving = async {
        let (context, command) = request(&mut messages).await;
        assert!(messages.next_fragment().await.unwrap().is_some());
        messages.send(context, &command.response(Status::OUT_OF_RESOURCES), None).await.unwrap();
        assert!(is_complete(&mut messages).await);
    };
    let (stored, ()) = tokio::join!(store(&mut association, object()), serving);
    assert_eq!(stored.unwrap(), Status::OUT_OF_RESOURCES);
}

#[tokio::test]
async fn an_object_whose_source_fails_is_never_complete_at_the_peer() {
    let listener = listen().await;
    let (mut association, mut messages) = connect(&listener, SOON).await;
    let mut chunks = object();
    chunks.push(Err(std::io::Error::other("disk")));
    let serving = async {
        request(&mut messages).await;
        assert!(!is_complete(&mut messages).await);
        drop(messages);
    };
    let (stored, ()) = tokio::join!(store(&mut association, chunks), serving);
    assert!(matches!(stored, Err(ScuError::Source(_))));
}

#[tokio::test]
async fn an_object_whose_sending_is_cancelled_is_never_complete_at_the_peer() {
    let listener = listen().await;
    let (mut association, mut messages) = connect(&listener, SOON).await;
    let (seen, begun) = tokio::sync::oneshot::channel();
    let serving = async move {
        request(&mut messages).await;
        assert!(messages.next_fragment().await.unwrap().is_some());
        seen.send(()).unwrap();
        // Whether by A-ABORT or by the connection's end in the middle of a PDU.
        while let Ok(fragment) = messages.next_fragment().await {
            assert!(fragment.is_some());
        }
    };
    let cancelling = async {
        let endless = stream::repeat_with(|| Ok(Bytes::from(vec![7; 100_000])));
        let mut endless = std::pin::pin!(endless);
        let uid = |text| Uid::parse(text).unwrap();
        let (class, instance) = (uid(CT), uid("1.2.3"));
        tokio::select! {
            result = association.store(&class, &instance, IMPLICIT_LITTLE_ENDIAN, endless.as_mut()) => {
                panic!("{result:?}")
            }
            begun = begun => begun.unwrap(),
        }
        association.abort().await;
    };
    tokio::join!(serving, cancelling);
}

#[tokio::test]
async fn silence_after_a_request_is_a_timeout_and_the_peer_is_told() {
    let listener = listen().await;
    let (mut association, mut messages) = connect(&listener, Duration::from_millis(200)).await;
    let serving = async {
        request(&mut messages).await;
        assert!(matches!(messages.next().await, Ok(Received::Aborted)));
        drop(messages);
    };
    let (echoed, ()) = tokio::join!(association.echo(), serving);
    assert!(matches!(echoed, Err(ScuError::TimedOut(_))));
}

#[tokio::test]
async fn a_peer_that_does_not_answer_the_association_request_is_given_up() {
    let listener = listen().await;
    let connected = Association::connect(&listener.peer(Duration::from_millis(200)), &[]).await;
    assert!(matches!(connected, Err(ScuError::TimedOut(_))));
    let port = listener.peer(SOON);
    drop(listener);
    assert!(matches!(Association::connect(&port, &[]).await, Err(ScuError::Connect { .. })));
}

#[tokio::test]
async fn a_response_to_another_message_ends_the_association() {
    let listener = listen().await;
    let (mut association, mut messages) = connect(&listener, SOON).await;
    let serving = async {
        let (context, echo) = request(&mut messages).await;
        let mut response = echo.response(Status::SUCCESS);
        response.message_id_being_responded_to = Some(999);
        messages.send(context, &response, None).await.unwrap();
        assert!(matches!(messages.next().await, Ok(Received::Aborted)));
        drop(messages);
    };
    let (echoed, ()) = tokio::join!(association.echo(), serving);
    assert!(matches!(echoed, Err(ScuError::Protocol(_))));
}

#[tokio::test]
async fn a_search_is_cancelled_when_enough_was_found() {
    let listener = listen().await;
    let (mut association, mut messages) = connect(&listener, SOON).await;
    let serving = async {
        let (context, find) = request(&mut messages).await;
        assert_eq!(messages.read_data_set(100).await.unwrap().unwrap(), b"keys"[..]);
        let message_id = find.message_id.unwrap();
        let mut pending = find.response(Status::PENDING);
        pending.has_data_set = true;
        while !messages.poll_cancel(message_id).await.unwrap() {
            messages.send(context, &pending, Some(b"answer")).await.unwrap();
            tokio::task::yield_now().await;
        }
        messages.send(context, &find.response(Status::CANCEL), None).await.unwrap();
    };
    let mut found = Vec::new();
    let finding = association.find(STUDY_ROOT, b"keys", |answer| {
        found.push(answer.to_vec());
        found.len() < 3
    });
    let (status, ()) = tokio::join!(finding, serving);
    assert_eq!(status.unwrap(), Status::CANCEL);
    assert_eq!(found, vec![b"answer"; 3]);
}

#[tokio::test]
async fn a_peer_that_ignores_the_cancel_is_left_in_time() {
    let listener = listen().await;
    let (mut association, mut messages) = connect(&listener, Duration::from_millis(300)).await;
    let serving = async {
        let (context, find) = request(&mut messages).await;
        messages.read_data_set(100).await.unwrap();
        let mut pending = find.response(Status::PENDING);
        pending.has_data_set = true;
        while messages.send(context, &pending, Some(b"answer")).await.is_ok() {}
        drop(messages);
    };
    let (status, ()) = tokio::join!(association.find(STUDY_ROOT, b"keys", |_| false), serving);
    assert!(matches!(status, Err(ScuError::TimedOut(_))));
}

#[tokio::test]
async fn a_report_that_comes_before_the_action_is_answered_keeps_its_turn() {
    let listener = listen().await;
    let (mut association, mut messages) = connect(&listener, SOON).await;
    let instance = "1.2.840.10008.1.20.1.1";
    let serving = async {
        let (context, action) = request(&mut messages).await;
        assert_eq!(action.action_type_id, Some(1));
        assert_eq!(messages.read_data_set(100).await.unwrap().unwrap(), b"request"[..]);
        let report = Command::n_event_report_rq(1, COMMITMENT, instance, 1);
        messages.send(context, &report, Some(b"report")).await.unwrap();
        messages.send(context, &action.response(Status::SUCCESS), None).await.unwrap();
        let (_, answer) = request(&mut messages).await;
        assert_eq!(answer, report.response(Status::SUCCESS));
    };
    let asking = async {
        let status = association.action(COMMITMENT, instance, 1, b"request").await.unwrap();
        assert_eq!(status, Status::SUCCESS);
        let Ok(Some(Received::Command { presentation_context_id, command })) =
            association.next_request(SOON).await
        else {
            panic!()
        };
        assert_eq!(association.read_data_set(100).await.unwrap().unwrap(), b"report"[..]);
        association.respond(presentation_context_id, &command.response(Status::SUCCESS)).await.unwrap();
        assert!(association.next_request(Duration::from_millis(50)).await.unwrap().is_none());
    };
    tokio::join!(serving, asking);
}

#[tokio::test]
async fn a_report_may_take_longer_than_an_answer() {
    let listener = listen().await;
    let (mut association, mut messages) = connect(&listener, Duration::from_millis(100)).await;
    let waiting = tokio::spawn(async move {
        let received = association.next_request(SOON).await;
        (received, association)
    });
    tokio::time::sleep(Duration::from_millis(350)).await;
    let report = Command::n_event_report_rq(1, COMMITMENT, "1.2.840.10008.1.20.1.1", 1);
    messages.send(3, &report, Some(b"report")).await.unwrap();
    let (received, _association) = waiting.await.unwrap();
    assert!(matches!(received, Ok(Some(Received::Command { .. }))), "{received:?}");
}

/// Serves a C-GET by these C-STOREs and a final status; the statuses that they were answered.
async fn serve_get(messages: &mut MessageStream, stores: &[(u8, &str)], last: Status) -> Vec<Status> {
    let (context, get) = request(messages).await;
    assert_eq!(messages.read_data_set(100).await.unwrap().unwrap(), b"keys"[..]);
    let mut answers = Vec::new();
    for (store_context, instance) in stores {
        let uid = |text| Uid::parse(text).unwrap();
        let store = Command::c_store_rq(40 + answers.len() as u16, &uid(CT), &uid(instance));
        messages.send(*store_context, &store, Some(&[7; 30_000])).await.unwrap();
        messages.send(context, &get.response(Status::PENDING), None).await.unwrap();
        let Ok(Received::Command { command, .. }) = messages.next().await else { return answers };
        assert_eq!(command.message_id_being_responded_to, store.message_id);
        answers.push(command.status.unwrap());
    }
    messages.send(context, &get.response(last), None).await.unwrap();
    answers
}

/// Retrieves instance 1.2.3 on the context of CT, and says how many bytes of it came.
async fn retrieve(association: &mut Association, most: usize) -> (Result<Retrieved, ScuError>, usize) {
    let mut length = 0;
    let uid = Uid::parse("1.2.3").unwrap();
    let got = association.get(STUDY_ROOT, b"keys", (7, &uid), |bytes| {
        length += bytes.len();
        length <= most
    });
    (got.await, length)
}

#[tokio::test]
async fn what_is_retrieved_is_handed_on_once_and_other_instances_are_refused() {
    let listener = listen().await;
    let (mut association, mut messages) = connect(&listener, SOON).await;
    let stores = [(7, "1.2.4"), (3, "1.2.3"), (7, "1.2.3"), (7, "1.2.3")];
    let serving = serve_get(&mut messages, &stores, Status(0xB000));
    let ((got, length), answers) = tokio::join!(retrieve(&mut association, 30_000), serving);
    assert_eq!((got.unwrap(), length), (Retrieved::Whole, 30_000));
    let refused = Status::INVALID_SOP_INSTANCE;
    assert_eq!(answers, [refused, refused, Status::SUCCESS, refused]);
}

#[tokio::test]
async fn nothing_retrieved_is_told_by_its_status() {
    for last in [Status::SUCCESS, Status::OUT_OF_RESOURCES] {
        let listener = listen().await;
        let (mut association, mut messages) = connect(&listener, SOON).await;
        let serving = serve_get(&mut messages, &[], last);
        let ((got, length), _) = tokio::join!(retrieve(&mut association, 0), serving);
        assert_eq!((got.unwrap(), length), (Retrieved::Nothing(last), 0));
    }
}

#[tokio::test]
async fn a_retrieval_that_is_too_long_is_broken_off() {
    let listener = listen().await;
    let (mut association, mut messages) = connect(&listener, SOON).await;
    let retrieving = async {
        let (got, length) = retrieve(&mut association, 10_000).await;
        association.abort().await;
        (got.unwrap(), length < 30_000)
    };
    let stores = [(7, "1.2.3")];
    let serving = serve_get(&mut messages, &stores, Status::SUCCESS);
    let (got, answers) = tokio::join!(retrieving, serving);
    assert_eq!((got, answers), ((Retrieved::BrokenOff, true), vec![]));
}
