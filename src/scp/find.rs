//! Query (PS3.4 annex C): C-FIND in Patient Root and Study Root, hierarchical. The same query
//! engine answers it as QIDO; here are the rules of the service and its responses.

use std::sync::Arc;

use dicom_dictionary_std::tags;

use crate::dicom::status::Status;
use crate::dicom::{Level, TransferSyntax, attributes};
use crate::dimse::command::Command;
use crate::dimse::pdu::PduError;
use crate::index::IndexError;
use crate::query::{Key, Match, Matches, Page, Query, unique_key};

use super::answer::{self, Answered};
use super::association::Association;
use super::identifier::{Identifier, LIMIT, RequestedKey};
use super::negotiation::{Context, Service};

/// Why a question is not answered: the final status, and the Error Comment.
type Declined = (Status, String);

pub async fn c_find(
    association: &mut Association,
    context: &Context,
    request: &Command,
) -> Result<(), PduError> {
    let end = match question(association, context, request).await? {
        Ok(question) => answer(association, context, request, question).await?,
        Err(declined) => Err(declined),
    };
    let response = match end {
        Ok(status) => request.response(status),
        Err((status, comment)) => request.response(status).with_comment(&comment),
    };
    association.respond(context, "C-FIND", response).await
}

/// A question that can be asked of the index, and what its asker wants to see of each match.
#[derive(Debug)]
struct Question {
    query: Query,
    level: &'static str,
    requested: Vec<RequestedKey>,
    /// Every key is one that this level supports.
    supported: bool,
}

async fn question(
    association: &mut Association,
    context: &Context,
    request: &Command,
) -> Result<Result<Question, Declined>, PduError> {
    let declined = |status, comment: &str| Ok(Err((status, comment.to_owned())));
    let top = match context.service {
        Service::PatientRootFind => Level::Patient,
        Service::StudyRootFind => Level::Study,
        _ => {
            association.drain().await?;
            return declined(Status::SOP_CLASS_NOT_SUPPORTED, "the context is not for queries");
        }
    };
    if !request.has_data_set {
        return declined(Status::PROCESSING_FAILURE, "the command announces no identifier");
    }
    let Some(data_set) = association.messages.read_data_set(LIMIT).await? else {
        return declined(Status::DATA_SET_MISMATCH, "the identifier is longer than 64 KiB");
    };
    if request.affected_sop_class_uid.as_deref() != Some(context.abstract_syntax.as_str()) {
        return declined(Status::SOP_CLASS_NOT_SUPPORTED, "the SOP class is not the context's");
    }
    let identifier = match Identifier::parse(&data_set, context.transfer_syntax) {
        Ok(identifier) => identifier,
        Err(error) => return declined(Status::CANNOT_UNDERSTAND, &error.to_string()),
    };
    let page = Page { limit: association.scp.limits.query_results, offset: 0 };
    Ok(plan(identifier, top, page).map_err(|what| (Status::DATA_SET_MISMATCH, what)))
}

/// The rules of a hierarchical search (PS3.4 §C.4.1.3.1.1). `Err` says which one is broken.
fn plan(identifier: Identifier, top: Level, page: Page) -> Result<Question, String> {
    let (level, level_name) = match identifier.level.as_str() {
        "PATIENT" if top == Level::Patient => (Level::Patient, "PATIENT"),
        "PATIENT" => return Err("Study Root has no PATIENT level".to_owned()),
        "STUDY" => (Level::Study, "STUDY"),
        "SERIES" => (Level::Series, "SERIES"),
        "IMAGE" => (Level::Image, "IMAGE"),
        "" => return Err("Query/Retrieve Level is missing".to_owned()),
        _ => return Err("Query/Retrieve Level is none of PATIENT, STUDY, SERIES, IMAGE".to_owned()),
    };
    let above = [Level::Patient, Level::Study, Level::Series].into_iter();
    for upper in above.filter(|upper| (top..level).contains(upper)) {
        check_unique_key(&identifier, upper)?;
    }
    let mut question = Question {
        query: Query { level, keys: Vec::new(), page },
        level: level_name,
        requested: Vec::with_capacity(identifier.keys.len()),
        supported: true,
    };
    for key in identifier.keys {
        question.add(key)?;
    }
    Ok(question)
}

/// Above the level of the question its place in the tree is given by single values.
fn check_unique_key(identifier: &Identifier, upper: Level) -> Result<(), String> {
    let tag = unique_key(upper);
    let keyword = attributes::by_tag(tag).map_or("a unique key", |attribute| attribute.keyword);
    let value = identifier.keys.iter().find(|key| key.tag == tag).map_or("", |key| key.value.as_str());
    if value.is_empty() {
        return Err(format!("{keyword} is missing"));
    }
    if value.contains(['\\', '*', '?']) {
        return Err(format!("{keyword} must be a single value"));
    }
    Ok(())
}

impl Question {
    fn add(&mut self, requested: RequestedKey) -> Result<(), String> {
        let answered_by_us = [tags::RETRIEVE_AE_TITLE, tags::INSTANCE_AVAILABILITY].contains(&requested.tag);
        if !answered_by_us {
            self.match_key(&requested)?;
        }
        self.requested.push(requested);
        Ok(())
    }

    fn match_key(&mut self, requested: &RequestedKey) -> Result<(), String> {
        use crate::query::QueryError::{BadValue, NotMatchable};
        let attribute = attributes::by_tag(requested.tag);
        // A URL to retrieve by is QIDO's to give (PS3.18 §10.6.3.3).
        let asked_here = |tag| tag != tags::RETRIEVE_URL;
        let attribute = attribute.filter(|attribute| attribute.level <= self.query.level);
        let Some(attribute) = attribute.filter(|attribute| asked_here(attribute.tag)) else {
            self.supported = false;
            return Ok(());
        };
        if requested.value.is_empty() {
            return Ok(());
        }
        match Key::parse(attribute, &requested.value) {
            Ok(key) => self.query.keys.push(key),
            Err(NotMatchable { .. }) => self.supported = false,
            Err(error @ BadValue { .. }) => return Err(error.to_string()),
        }
        Ok(())
    }

    /// The identifier of one pending response.
    fn identifier(
        &self,
        found: &Match,
        retrieve_ae_title: &str,
        transfer_syntax: &TransferSyntax,
    ) -> Vec<u8> {
        let mut elements = vec![
            Answered { tag: tags::QUERY_RETRIEVE_LEVEL, vr: dicom_core::VR::CS, value: self.level },
            Answered { tag: tags::RETRIEVE_AE_TITLE, vr: dicom_core::VR::AE, value: retrieve_ae_title },
        ];
        for key in self.requested.iter().filter(|key| key.tag != tags::RETRIEVE_AE_TITLE) {
            let known = attributes::by_tag(key.tag).and_then(|_| found.attributes.get(key.tag));
            let value = match known {
                None if key.tag == tags::INSTANCE_AVAILABILITY => "ONLINE",
                known => known.unwrap_or(""),
            };
            elements.push(Answered { tag: key.tag, vr: key.vr, value });
        }
        elements.sort_by_key(|element| element.tag);
        answer::encode(&elements, transfer_syntax.encoding)
    }
}

/// Sends a pending response per match and returns the final status.
async fn answer(
    association: &mut Association,
    context: &Context,
    request: &Command,
    mut question: Question,
) -> Result<Result<Status, Declined>, PduError> {
    let matches = match search(association, &mut question).await {
        Ok(matches) => matches,
        Err(declined) => return Ok(Err(declined)),
    };
    let Matches { rows, more } = Arc::as_ref(&matches);
    let message_id = request.message_id.unwrap_or_default();
    let status = if question.supported { Status::PENDING } else { Status::PENDING_WITHOUT_OPTIONAL_KEYS };
    let pending = request.response(status);
    let retrieve_ae_title = association.peer.called_ae_title.clone();
    for row in rows {
        if association.messages.poll_cancel(message_id).await? {
            return Ok(Ok(Status::CANCEL));
        }
        let identifier = question.identifier(row, retrieve_ae_title.as_str(), context.transfer_syntax);
        association.messages.send(context.id, &pending, Some(&identifier)).await?;
    }
    if *more {
        let limit = question.query.page.limit;
        return Ok(Err((Status::OUT_OF_RESOURCES, format!("more than {limit} matches; narrow the query"))));
    }
    Ok(Ok(Status::SUCCESS))
}

/// Asks the index. A key that it can't match, such as a count, is answered like one that is not
/// supported.
async fn search(association: &Association, question: &mut Question) -> Result<Arc<Matches>, Declined> {
    loop {
        let error = match association.scp.index.search(&question.query).await {
            Ok(matches) => return Ok(matches),
            Err(error) => error,
        };
        let keys = &mut question.query.keys;
        let asked = keys.len();
        if let IndexError::NotMatchable { keyword } = error {
            keys.retain(|key| key.attribute.keyword != keyword);
        }
        if keys.len() == asked {
            tracing::warn!(
                address = %association.peer.address,
                calling_ae_title = ?association.peer.calling_ae_title,
                %error,
                "query not answered"
            );
            return Err((Status::OUT_OF_RESOURCES, "the index does not answer".to_owned()));
        }
        question.supported = false;
    }
}

#[cfg(test)]
mod tests;
