//! The requestor's half: A-ASSOCIATE-RQ is written, A-ASSOCIATE-AC is read. The acceptor's half is
//! the parent module; what is unknown is ignored on this side too (PS3.8 §9.3.1).

use super::{AssociateAccept, AssociateRequest, ContextResult, Fields, ProposedContext, item, name};
use super::{UserInformation, ae_title_field};

impl AssociateRequest {
    /// The variable field of the PDU (type 01H), what follows its 6-byte header. `echoed` is made
    /// from the AE titles. User identity is not sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0, 1, 0, 0];
        out.extend_from_slice(&ae_title_field(&self.called_ae_title));
        out.extend_from_slice(&ae_title_field(&self.calling_ae_title));
        out.extend_from_slice(&[0; 32]);
        item(&mut out, 0x10, self.application_context.as_bytes());
        for context in &self.presentation_contexts {
            item(&mut out, 0x20, &context.encode());
        }
        item(&mut out, 0x50, &self.user.encode());
        out
    }
}

impl ProposedContext {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.id, 0, 0, 0];
        item(&mut out, 0x30, self.abstract_syntax.as_bytes());
        for transfer_syntax in &self.transfer_syntaxes {
            item(&mut out, 0x40, transfer_syntax.as_bytes());
        }
        out
    }
}

impl AssociateAccept {
    /// Decodes the variable field of the PDU. `Err` says what is wrong with it.
    pub fn decode(body: &[u8]) -> Result<Self, &'static str> {
        let mut fields = Fields(body);
        fields.take(4)?;
        let mut accept = AssociateAccept { echoed: fields.take(64)?.to_vec(), ..Self::default() };
        while let Some((item_type, item)) = fields.item()? {
            match item_type {
                0x10 => accept.application_context = name(item.0),
                0x21 => accept.presentation_contexts.push(ContextResult::decode(item)?),
                0x50 => accept.user = UserInformation::decode(item)?,
                _ => {}
            }
        }
        Ok(accept)
    }
}

impl ContextResult {
    /// The transfer syntax of a refused context is not significant, and some peers leave it out.
    fn decode(mut fields: Fields<'_>) -> Result<Self, &'static str> {
        let id = fields.u8()?;
        fields.u8()?;
        let result = fields.u8()?;
        fields.u8()?;
        let mut context = ContextResult { id, result, transfer_syntax: String::new() };
        while let Some((item_type, item)) = fields.item()? {
            if item_type == 0x40 {
                context.transfer_syntax = name(item.0);
            }
        }
        Ok(context)
    }
}

#[cfg(test)]
mod tests {
    use super::super::RoleSelection;
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let request = AssociateRequest {
            protocol_version: 1,
            called_ae_title: "ARCHIVE".into(),
            calling_ae_title: "RELAYPACS".into(),
            echoed: [&b"ARCHIVE         RELAYPACS       "[..], &[0; 32]].concat(),
            application_context: "1.2.840.10008.3.1.1.1".into(),
            presentation_contexts: vec![ProposedContext {
                id: 255,
                abstract_syntax: "1.2.840.10008.1.1".into(),
                transfer_syntaxes: vec!["1.2.840.10008.1.2".into(), "1.2.840.10008.1.2.1".into()],
            }],
            user: UserInformation {
                max_length: 131_072,
                implementation_class_uid: Some("1.2.3".into()),
                roles: vec![RoleSelection { sop_class_uid: "1.2".into(), scu: true, scp: true }],
                ..Default::default()
            },
        };
        assert_eq!(AssociateRequest::decode(&request.encode()), Ok(request));
    }

    #[test]
    fn an_answer_is_read_as_it_was_written_and_unknown_items_are_ignored() {
        let context =
            |id, result: u8, syntax: &str| ContextResult { id, result, transfer_syntax: syntax.into() };
        let accept = AssociateAccept {
            echoed: vec![b' '; 64],
            application_context: "1.2.840.10008.3.1.1.1".into(),
            presentation_contexts: vec![context(1, 0, "1.2.840.10008.1.2"), context(3, 3, "")],
            user: UserInformation { max_length: 16_384, ..Default::default() },
        };
        let mut body = accept.encode();
        item(&mut body, 0x99, b"unknown");
        assert_eq!(AssociateAccept::decode(&body), Ok(accept));
    }

    #[test]
    fn a_refused_context_without_transfer_syntax_is_read() {
        let mut body = vec![0; 68];
        item(&mut body, 0x21, &[5, 0, 4, 0]);
        let accept = AssociateAccept::decode(&body).unwrap();
        assert_eq!((accept.presentation_contexts[0].id, accept.presentation_contexts[0].result), (5, 4));
    }
}
