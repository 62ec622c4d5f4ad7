//! A-ASSOCIATE-RQ as it stands on the wire, and the A-ASSOCIATE-AC that answers it (PS3.8 §9.3.2,
//! §9.3.3; PS3.7 annex D). The acceptor reads requests here and not through `dicom_ul`, which
//! fails on items that §9.3.1 says to ignore, trims control characters off AE titles, and keeps
//! neither the bytes that must be echoed nor a response to a user identity.

mod requestor;

/// The only one there is (PS3.7 §A.2.1).
pub const APPLICATION_CONTEXT: &str = "1.2.840.10008.3.1.1.1";
/// Presentation contexts of one association: their ids are odd and of one byte (PS3.8 §9.3.2.2).
pub const MOST_CONTEXTS: usize = 128;

/// An A-ASSOCIATE-RQ. Names are text as sent, without padding; whether they are valid and known
/// is for negotiation to judge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AssociateRequest {
    pub protocol_version: u16,
    pub called_ae_title: String,
    pub calling_ae_title: String,
    /// Bytes 11–74, which the answer repeats.
    pub echoed: Vec<u8>,
    pub application_context: String,
    pub presentation_contexts: Vec<ProposedContext>,
    pub user: UserInformation,
}

/// Presentation Context Item (PS3.8 §9.3.2.2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProposedContext {
    pub id: u8,
    pub abstract_syntax: String,
    pub transfer_syntaxes: Vec<String>,
}

/// User Information Item (PS3.7 §D.3.3). SOP class extended and common extended negotiation are
/// read over: nothing here depends on them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserInformation {
    /// Largest P-DATA-TF the peer takes; 0 is without limit (PS3.8 §D.1).
    pub max_length: u32,
    pub implementation_class_uid: Option<String>,
    pub implementation_version_name: Option<String>,
    /// Operations invoked and performed (PS3.7 §D.3.3.3).
    pub async_operations: Option<(u16, u16)>,
    pub roles: Vec<RoleSelection>,
    pub user_identity: Option<UserIdentity>,
}

/// SCP/SCU Role Selection (PS3.7 §D.3.3.4), of the requestor, in both directions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleSelection {
    pub sop_class_uid: String,
    pub scu: bool,
    pub scp: bool,
}

/// User Identity (PS3.7 §D.3.3.7) without its secrets, which nothing here checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserIdentity {
    /// 1 name, 2 name and passcode, 3 Kerberos, 4 SAML, 5 JWT.
    pub kind: u8,
    pub positive_response_requested: bool,
}

/// One answered context (PS3.8 §9.3.3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextResult {
    pub id: u8,
    /// 0 acceptance, 1 user rejection, 3 abstract syntax, 4 transfer syntaxes not supported.
    pub result: u8,
    /// Significant only with result 0, but always present.
    pub transfer_syntax: String,
}

/// What an A-ASSOCIATE-AC says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AssociateAccept {
    /// Bytes 11–74 of the request.
    pub echoed: Vec<u8>,
    pub application_context: String,
    pub presentation_contexts: Vec<ContextResult>,
    pub user: UserInformation,
}

/// Reads the fields of a PDU or item one after the other; running past its end is an error.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        if length > self.0.len() {
            return Err("an item is longer than what contains it");
        }
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, &'static str> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, &'static str> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// The next item: its type and its content.
    fn item(&mut self) -> Result<Option<(u8, Fields<'a>)>, &'static str> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let item_type = self.u8()?;
        self.u8()?;
        let length = self.u16()?;
        Ok(Some((item_type, Fields(self.take(usize::from(length))?))))
    }

    /// A value preceded by its length (PS3.7 §D.3.3.4, §D.3.3.7).
    fn counted(&mut self) -> Result<&'a [u8], &'static str> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

/// A UID or name without its padding: trailing spaces and NULs, as found in the field.
fn name(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches(['\0', ' ']).to_owned()
}

/// Only spaces are insignificant in an AE title (PS3.8 §9.3.2); anything else stays to be judged.
fn ae_title(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_matches(' ').to_owned()
}

/// 16 characters, padded with spaces.
fn ae_title_field(title: &str) -> [u8; 16] {
    let mut field = [b' '; 16];
    let length = title.len().min(16);
    field[..length].copy_from_slice(&title.as_bytes()[..length]);
    field
}

impl AssociateRequest {
    /// Decodes the variable field of the PDU, what follows its 6-byte header. `Err` says what is
    /// wrong with it.
    pub fn decode(body: &[u8]) -> Result<Self, &'static str> {
        let mut fields = Fields(body);
        let mut request = AssociateRequest { protocol_version: fields.u16()?, ..Self::default() };
        fields.u16()?;
        let echoed = fields.take(64)?;
        request.echoed = echoed.to_vec();
        request.called_ae_title = ae_title(&echoed[..16]);
        request.calling_ae_title = ae_title(&echoed[16..32]);
        while let Some((item_type, item)) = fields.item()? {
            match item_type {
                0x10 => request.application_context = name(item.0),
                0x20 => request.presentation_contexts.push(ProposedContext::decode(item)?),
                0x50 => request.user = UserInformation::decode(item)?,
                _ => {}
            }
        }
        Ok(request)
    }
}

impl ProposedContext {
    fn decode(mut fields: Fields<'_>) -> Result<Self, &'static str> {
        let mut context = ProposedContext { id: fields.u8()?, ..Self::default() };
        fields.take(3)?;
        while let Some((item_type, item)) = fields.item()? {
            match item_type {
                0x30 => context.abstract_syntax = name(item.0),
                0x40 => context.transfer_syntaxes.push(name(item.0)),
                _ => {}
            }
        }
        Ok(context)
    }
}

impl UserInformation {
    fn decode(mut fields: Fields<'_>) -> Result<Self, &'static str> {
        let mut user = Self::default();
        while let Some((item_type, mut item)) = fields.item()? {
            match item_type {
                0x51 => user.max_length = item.u32()?,
                0x52 => user.implementation_class_uid = Some(name(item.0)),
                0x53 => user.async_operations = Some((item.u16()?, item.u16()?)),
                0x54 => user.roles.push(RoleSelection {
                    sop_class_uid: name(item.counted()?),
                    scu: item.u8()? != 0,
                    scp: item.u8()? != 0,
                }),
                0x55 => user.implementation_version_name = Some(name(item.0)),
                0x58 => user.user_identity = Some(UserIdentity::decode(item)?),
                _ => {}
            }
        }
        Ok(user)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        item(&mut out, 0x51, &self.max_length.to_be_bytes());
        if let Some(uid) = &self.implementation_class_uid {
            item(&mut out, 0x52, uid.as_bytes());
        }
        if let Some((invoked, performed)) = self.async_operations {
            item(&mut out, 0x53, &[invoked.to_be_bytes(), performed.to_be_bytes()].concat());
        }
        for role in &self.roles {
            let uid = role.sop_class_uid.as_bytes();
            let length = (uid.len() as u16).to_be_bytes();
            item(&mut out, 0x54, &[&length[..], uid, &[u8::from(role.scu), u8::from(role.scp)]].concat());
        }
        if let Some(name) = &self.implementation_version_name {
            item(&mut out, 0x55, name.as_bytes());
        }
        if self.user_identity.is_some_and(|identity| identity.positive_response_requested) {
            // The server response has a length of 0 (PS3.7 §D.3.3.7.2).
            item(&mut out, 0x59, &[0, 0]);
        }
        out
    }
}

impl UserIdentity {
    fn decode(mut fields: Fields<'_>) -> Result<Self, &'static str> {
        let kind = fields.u8()?;
        let positive_response_requested = fields.u8()? == 1;
        fields.counted()?;
        // The secondary field belongs to kind 2; some senders leave out its length in the others.
        if kind == 2 || !fields.0.is_empty() {
            fields.counted()?;
        }
        Ok(Self { kind, positive_response_requested })
    }
}

impl AssociateAccept {
    /// The variable field of the PDU (type 02H), what follows its 6-byte header.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0, 1, 0, 0];
        out.extend_from_slice(&self.echoed);
        item(&mut out, 0x10, self.application_context.as_bytes());
        for context in &self.presentation_contexts {
            let mut content = vec![context.id, 0, context.result, 0];
            item(&mut content, 0x40, context.transfer_syntax.as_bytes());
            item(&mut out, 0x21, &content);
        }
        item(&mut out, 0x50, &self.user.encode());
        out
    }
}

/// Appends an item. Contents are ours or were items of at most 65,535 bytes themselves.
fn item(out: &mut Vec<u8>, item_type: u8, content: &[u8]) {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&[item_type, 0]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&content[..usize::from(length)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(items: &[u8]) -> Vec<u8> {
        let mut body = vec![0, 3, 0xAB, 0xCD];
        body.extend_from_slice(b"  RELAYPACS     ");
        body.extend_from_slice(b"CT_1            ");
        body.extend_from_slice(&[7; 32]);
        body.extend_from_slice(items);
        body
    }

    fn of(item_type: u8, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        item(&mut out, item_type, content);
        out
    }

    #[test]
    fn a_request_is_read_with_everything_negotiation_needs() {
        let context = [
            &[5, 0, 0, 0][..],
            &of(0x30, b"1.2.840.10008.1.1\0"),
            &of(0x40, b"1.2.840.10008.1.2"),
            &of(0x40, b"1.2.840.10008.1.2.1"),
        ]
        .concat();
        let user = [
            of(0x51, &16384u32.to_be_bytes()),
            of(0x52, b"1.2.3"),
            of(0x53, &[0, 5, 0, 6]),
            of(0x54, b"\0\x03\x31.2\0\x01"),
            of(0x56, b"\0\x031.2ignored"),
            of(0x58, b"\x02\x01\0\x04user\0\x04pass"),
        ]
        .concat();
        let request = AssociateRequest::decode(&body(
            &[of(0x10, b"1.2.840.10008.3.1.1.1"), of(0x20, &context), of(0x50, &user)].concat(),
        ))
        .unwrap();
        assert_eq!(
            (request.called_ae_title.as_str(), request.calling_ae_title.as_str()),
            ("RELAYPACS", "CT_1")
        );
        assert_eq!(request.echoed[32..], [7; 32]);
        assert_eq!(request.presentation_contexts[0].id, 5);
        assert_eq!(request.presentation_contexts[0].abstract_syntax, "1.2.840.10008.1.1");
        assert_eq!(request.presentation_contexts[0].transfer_syntaxes.len(), 2);
        assert_eq!(request.user.max_length, 16384);
        assert_eq!(request.user.async_operations, Some((5, 6)));
        let role = RoleSelection { sop_class_uid: "1.2".into(), scu: false, scp: true };
        assert_eq!(request.user.roles, [role]);
        let identity = UserIdentity { kind: 2, positive_response_requested: true };
        assert_eq!(request.user.user_identity, Some(identity));
    }

    #[test]
    fn unknown_items_and_sub_items_are_ignored() {
        let items = [
            of(0x99, b"x"),
            of(0x20, &[&[1, 0, 0, 0][..], &of(0x77, b"y"), &of(0x30, b"1.2")].concat()),
            of(0x50, &of(0x88, b"z")),
        ];
        let request = AssociateRequest::decode(&body(&items.concat())).unwrap();
        assert_eq!(request.presentation_contexts[0].abstract_syntax, "1.2");
    }

    #[test]
    fn no_prefix_of_a_request_panics_and_a_length_past_the_end_is_an_error() {
        let whole = body(&[of(0x10, b"1.2"), of(0x50, &of(0x58, b"\x01\0\0\x02ab\0\0"))].concat());
        for length in 0..whole.len() {
            let _ = AssociateRequest::decode(&whole[..length]);
        }
        assert!(AssociateRequest::decode(&whole[..60]).is_err());
        let beyond = body(&[0x10, 0, 0xFF, 0xFF, b'1']);
        assert!(AssociateRequest::decode(&beyond).is_err());
    }

    #[test]
    fn control_characters_of_an_ae_title_are_kept_to_be_judged() {
        let mut bytes = body(&[]);
        bytes[20..36].copy_from_slice(b"CT_1\r\n          ");
        assert_eq!(AssociateRequest::decode(&bytes).unwrap().calling_ae_title, "CT_1\r\n");
    }

    #[test]
    fn an_identity_that_asked_for_it_gets_its_response() {
        let mut user = UserInformation { max_length: 1, ..Default::default() };
        assert!(!user.encode().windows(4).any(|bytes| bytes == [0x59, 0, 0, 2]));
        user.user_identity = Some(UserIdentity { kind: 1, positive_response_requested: true });
        assert!(user.encode().ends_with(&[0x59, 0, 0, 2, 0, 0]));
    }
}
