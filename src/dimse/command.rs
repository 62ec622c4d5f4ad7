//! Command sets (PS3.7 §E): Implicit VR Little Endian, group 0000 only.

use crate::dicom::Uid;
use crate::dicom::sop_class::VERIFICATION;
use crate::dicom::status::Status;

/// Command Field (0000,0100), PS3.7 §E.1-1.
pub mod field {
    pub const C_STORE_RQ: u16 = 0x0001;
    pub const C_STORE_RSP: u16 = 0x8001;
    pub const C_GET_RQ: u16 = 0x0010;
    pub const C_FIND_RQ: u16 = 0x0020;
    pub const C_ECHO_RQ: u16 = 0x0030;
    pub const N_EVENT_REPORT_RQ: u16 = 0x0100;
    pub const N_EVENT_REPORT_RSP: u16 = 0x8100;
    pub const N_ACTION_RQ: u16 = 0x0130;
    pub const N_ACTION_RSP: u16 = 0x8130;
    pub const C_CANCEL_RQ: u16 = 0x0FFF;

    /// Set in the Command Field of every response.
    pub const RESPONSE: u16 = 0x8000;
}

/// Elements of group 0000 (PS3.7 §E.1) that are read and written here.
mod element {
    pub const AFFECTED_SOP_CLASS_UID: u16 = 0x0002;
    pub const REQUESTED_SOP_CLASS_UID: u16 = 0x0003;
    pub const COMMAND_FIELD: u16 = 0x0100;
    pub const MESSAGE_ID: u16 = 0x0110;
    pub const MESSAGE_ID_BEING_RESPONDED_TO: u16 = 0x0120;
    pub const MOVE_DESTINATION: u16 = 0x0600;
    pub const PRIORITY: u16 = 0x0700;
    pub const COMMAND_DATA_SET_TYPE: u16 = 0x0800;
    pub const STATUS: u16 = 0x0900;
    pub const ERROR_COMMENT: u16 = 0x0902;
    pub const AFFECTED_SOP_INSTANCE_UID: u16 = 0x1000;
    pub const REQUESTED_SOP_INSTANCE_UID: u16 = 0x1001;
    pub const EVENT_TYPE_ID: u16 = 0x1002;
    pub const ACTION_TYPE_ID: u16 = 0x1008;
    pub const MOVE_ORIGINATOR_AE_TITLE: u16 = 0x1030;
    pub const MOVE_ORIGINATOR_MESSAGE_ID: u16 = 0x1031;
}

/// Command Data Set Type: no data set follows (PS3.7 §E.1-1). Anything else means that one does.
const NO_DATA_SET: u16 = 0x0101;
const DATA_SET_PRESENT: u16 = 0x0001;
/// Priority MEDIUM.
const MEDIUM: u16 = 0x0000;
/// Value representation LO.
const ERROR_COMMENT_LENGTH: usize = 64;

/// A command set as a bag of its elements, with typed access to those the services use. UIDs are
/// kept as text here: whether they are valid is for the service to judge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    pub command_field: u16,
    pub message_id: Option<u16>,
    pub message_id_being_responded_to: Option<u16>,
    pub affected_sop_class_uid: Option<String>,
    pub requested_sop_class_uid: Option<String>,
    pub affected_sop_instance_uid: Option<String>,
    pub requested_sop_instance_uid: Option<String>,
    pub priority: Option<u16>,
    pub status: Option<Status>,
    /// Error Comment (0000,0902): at most 64 characters, no patient data.
    pub error_comment: Option<String>,
    pub move_destination: Option<String>,
    pub move_originator_ae_title: Option<String>,
    pub move_originator_message_id: Option<u16>,
    pub event_type_id: Option<u16>,
    pub action_type_id: Option<u16>,
    /// Command Data Set Type (0000,0800) other than 0101H.
    pub has_data_set: bool,
}

impl Command {
    /// The response to this request: same message id, SOP class and instance. What a request
    /// *requested* (N-ACTION), its response calls *affected* (PS3.7 §10.3).
    pub fn response(&self, status: Status) -> Command {
        let either = |affected: &Option<String>, requested: &Option<String>| {
            affected.as_ref().or(requested.as_ref()).cloned()
        };
        Command {
            command_field: self.command_field | field::RESPONSE,
            message_id_being_responded_to: self.message_id,
            affected_sop_class_uid: either(&self.affected_sop_class_uid, &self.requested_sop_class_uid),
            affected_sop_instance_uid: either(
                &self.affected_sop_instance_uid,
                &self.requested_sop_instance_uid,
            ),
            event_type_id: self.event_type_id,
            action_type_id: self.action_type_id,
            status: Some(status),
            ..Command::default()
        }
    }

    /// With an Error Comment, cut to what LO can hold.
    pub fn with_comment(mut self, comment: &str) -> Command {
        self.error_comment = Some(comment.to_owned());
        self
    }

    /// Whether this is a response, of whatever service.
    pub fn is_response(&self) -> bool {
        self.command_field & field::RESPONSE != 0
    }

    pub fn c_echo_rq(message_id: u16) -> Command {
        Command {
            affected_sop_class_uid: Some(VERIFICATION.to_owned()),
            ..request(field::C_ECHO_RQ, message_id)
        }
    }

    pub fn c_store_rq(message_id: u16, sop_class_uid: &Uid, sop_instance_uid: &Uid) -> Command {
        Command {
            affected_sop_class_uid: Some(sop_class_uid.to_string()),
            affected_sop_instance_uid: Some(sop_instance_uid.to_string()),
            priority: Some(MEDIUM),
            has_data_set: true,
            ..request(field::C_STORE_RQ, message_id)
        }
    }

    pub fn c_find_rq(message_id: u16, sop_class_uid: &str) -> Command {
        Command::query_rq(field::C_FIND_RQ, message_id, sop_class_uid)
    }

    pub fn c_get_rq(message_id: u16, sop_class_uid: &str) -> Command {
        Command::query_rq(field::C_GET_RQ, message_id, sop_class_uid)
    }

    fn query_rq(command_field: u16, message_id: u16, sop_class_uid: &str) -> Command {
        Command {
            affected_sop_class_uid: Some(sop_class_uid.to_owned()),
            priority: Some(MEDIUM),
            has_data_set: true,
            ..request(command_field, message_id)
        }
    }

    /// Has no message id of its own and no response (PS3.7 §9.3.2.3).
    pub fn c_cancel_rq(message_id_being_responded_to: u16) -> Command {
        Command {
            command_field: field::C_CANCEL_RQ,
            message_id_being_responded_to: Some(message_id_being_responded_to),
            ..Command::default()
        }
    }

    pub fn n_action_rq(
        message_id: u16,
        sop_class_uid: &str,
        sop_instance_uid: &str,
        action_type_id: u16,
    ) -> Command {
        Command {
            requested_sop_class_uid: Some(sop_class_uid.to_owned()),
            requested_sop_instance_uid: Some(sop_instance_uid.to_owned()),
            action_type_id: Some(action_type_id),
            has_data_set: true,
            ..request(field::N_ACTION_RQ, message_id)
        }
    }

    pub fn n_event_report_rq(
        message_id: u16,
        sop_class_uid: &str,
        sop_instance_uid: &str,
        event_type_id: u16,
    ) -> Command {
        Command {
            affected_sop_class_uid: Some(sop_class_uid.to_owned()),
            affected_sop_instance_uid: Some(sop_instance_uid.to_owned()),
            event_type_id: Some(event_type_id),
            has_data_set: true,
            ..request(field::N_EVENT_REPORT_RQ, message_id)
        }
    }

    /// The command set with its group length; elements in order of their tags.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 12];
        let data_set_type = if self.has_data_set { DATA_SET_PRESENT } else { NO_DATA_SET };
        text(&mut out, element::AFFECTED_SOP_CLASS_UID, 0, self.affected_sop_class_uid.as_deref());
        text(&mut out, element::REQUESTED_SOP_CLASS_UID, 0, self.requested_sop_class_uid.as_deref());
        number(&mut out, element::COMMAND_FIELD, Some(self.command_field));
        number(&mut out, element::MESSAGE_ID, self.message_id);
        number(&mut out, element::MESSAGE_ID_BEING_RESPONDED_TO, self.message_id_being_responded_to);
        text(&mut out, element::MOVE_DESTINATION, b' ', self.move_destination.as_deref());
        number(&mut out, element::PRIORITY, self.priority);
        number(&mut out, element::COMMAND_DATA_SET_TYPE, Some(data_set_type));
        number(&mut out, element::STATUS, self.status.map(|status| status.0));
        let comment = self.error_comment.as_deref().map(error_comment);
        text(&mut out, element::ERROR_COMMENT, b' ', comment.as_deref());
        text(&mut out, element::AFFECTED_SOP_INSTANCE_UID, 0, self.affected_sop_instance_uid.as_deref());
        text(&mut out, element::REQUESTED_SOP_INSTANCE_UID, 0, self.requested_sop_instance_uid.as_deref());
        number(&mut out, element::EVENT_TYPE_ID, self.event_type_id);
        number(&mut out, element::ACTION_TYPE_ID, self.action_type_id);
        text(&mut out, element::MOVE_ORIGINATOR_AE_TITLE, b' ', self.move_originator_ae_title.as_deref());
        number(&mut out, element::MOVE_ORIGINATOR_MESSAGE_ID, self.move_originator_message_id);
        let group_length = (out.len() - 12) as u32;
        out[..12].copy_from_slice(&[0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        out[8..12].copy_from_slice(&group_length.to_le_bytes());
        out
    }

    /// Decodes a command set; `Err` says what is wrong with it. A wrong or missing group length is
    /// tolerated, and so are elements that nothing here uses.
    pub fn decode(mut bytes: &[u8]) -> Result<Command, &'static str> {
        let mut command = Command::default();
        let mut command_field = None;
        let mut data_set_type = None;
        while !bytes.is_empty() {
            let (element, value, rest) = take_element(bytes)?;
            bytes = rest;
            match element {
                element::COMMAND_FIELD => command_field = Some(read_number(value)?),
                element::COMMAND_DATA_SET_TYPE => data_set_type = Some(read_number(value)?),
                _ => command.set(element, value)?,
            }
        }
        command.command_field = command_field.ok_or("a command set without Command Field")?;
        command.has_data_set =
            data_set_type.ok_or("a command set without Command Data Set Type")? != NO_DATA_SET;
        Ok(command)
    }

    fn set(&mut self, element: u16, value: &[u8]) -> Result<(), &'static str> {
        match element {
            element::AFFECTED_SOP_CLASS_UID => self.affected_sop_class_uid = read_text(value),
            element::REQUESTED_SOP_CLASS_UID => self.requested_sop_class_uid = read_text(value),
            element::AFFECTED_SOP_INSTANCE_UID => self.affected_sop_instance_uid = read_text(value),
            element::REQUESTED_SOP_INSTANCE_UID => self.requested_sop_instance_uid = read_text(value),
            element::MOVE_DESTINATION => self.move_destination = read_text(value),
            element::MOVE_ORIGINATOR_AE_TITLE => self.move_originator_ae_title = read_text(value),
            element::ERROR_COMMENT => self.error_comment = read_text(value),
            element::MESSAGE_ID => self.message_id = Some(read_number(value)?),
            element::MESSAGE_ID_BEING_RESPONDED_TO => {
                self.message_id_being_responded_to = Some(read_number(value)?);
            }
            element::PRIORITY => self.priority = Some(read_number(value)?),
            element::STATUS => self.status = Some(Status(read_number(value)?)),
            element::EVENT_TYPE_ID => self.event_type_id = Some(read_number(value)?),
            element::ACTION_TYPE_ID => self.action_type_id = Some(read_number(value)?),
            element::MOVE_ORIGINATOR_MESSAGE_ID => {
                self.move_originator_message_id = Some(read_number(value)?);
            }
            _ => {}
        }
        Ok(())
    }
}

fn request(command_field: u16, message_id: u16) -> Command {
    Command { command_field, message_id: Some(message_id), ..Command::default() }
}

/// The next element of group 0000, its value, and what follows.
fn take_element(bytes: &[u8]) -> Result<(u16, &[u8], &[u8]), &'static str> {
    const CUT_SHORT: &str = "a command set ends inside an element";
    let (&[g, h, e, f, a, b, c, d], rest) = bytes.split_first_chunk::<8>().ok_or(CUT_SHORT)?;
    if u16::from_le_bytes([g, h]) != 0 {
        return Err("a command set with an element outside group 0000");
    }
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let (value, rest) = rest.split_at_checked(length).ok_or(CUT_SHORT)?;
    Ok((u16::from_le_bytes([e, f]), value, rest))
}

fn read_number(value: &[u8]) -> Result<u16, &'static str> {
    match value {
        [low, high] => Ok(u16::from_le_bytes([*low, *high])),
        _ => Err("a number in a command set is not two bytes long"),
    }
}

/// Text without padding; an empty value is as good as none.
fn read_text(value: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(value);
    let text = text.trim_end_matches(['\0', ' ']);
    if text.is_empty() { None } else { Some(text.to_owned()) }
}

fn push(out: &mut Vec<u8>, element: u16, value: &[u8]) {
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&element.to_le_bytes());
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value);
}

fn number(out: &mut Vec<u8>, element: u16, value: Option<u16>) {
    if let Some(value) = value {
        push(out, element, &value.to_le_bytes());
    }
}

/// UIDs are padded with NUL, other text with a space (PS3.5 §6.2).
fn text(out: &mut Vec<u8>, element: u16, padding: u8, value: Option<&str>) {
    if let Some(value) = value {
        let mut bytes = value.as_bytes().to_vec();
        if bytes.len() % 2 == 1 {
            bytes.push(padding);
        }
        push(out, element, &bytes);
    }
}

/// LO in the default repertoire: 64 characters, no backslash, no control characters.
fn error_comment(comment: &str) -> String {
    let plain = |c: char| if (' '..='~').contains(&c) && c != '\\' { c } else { '?' };
    comment.chars().take(ERROR_COMMENT_LENGTH).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(text: &str) -> Uid {
        Uid::parse(text).unwrap()
    }

    #[test]
    fn what_was_encoded_decodes_to_the_same() {
        let mut store = Command::c_store_rq(7, &uid("1.2.840.10008.5.1.4.1.1.2"), &uid("1.2.3"));
        store.move_originator_ae_title = Some("MOVER".into());
        store.move_originator_message_id = Some(9);
        let commands = [
            store,
            Command::c_echo_rq(1),
            Command::c_find_rq(65535, "1.2.840.10008.5.1.4.1.2.2.1"),
            Command::c_get_rq(2, "1.2.840.10008.5.1.4.1.2.2.3"),
            Command::c_cancel_rq(3),
            Command::n_action_rq(4, "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1", 1),
            Command::n_event_report_rq(5, "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1", 2),
        ];
        for command in commands {
            assert_eq!(Command::decode(&command.encode()), Ok(command));
        }
    }

    #[test]
    fn an_echo_request_has_the_bytes_of_the_standard() {
        let expected = [
            &[0, 0, 0, 0, 4, 0, 0, 0, 56, 0, 0, 0][..],
            &[0, 0, 2, 0, 18, 0, 0, 0],
            b"1.2.840.10008.1.1\0",
            &[0, 0, 0, 1, 2, 0, 0, 0, 0x30, 0],
            &[0, 0, 0x10, 1, 2, 0, 0, 0, 1, 0],
            &[0, 0, 0, 8, 2, 0, 0, 0, 1, 1],
        ];
        assert_eq!(Command::c_echo_rq(1).encode(), expected.concat());
    }

    #[test]
    fn a_response_names_what_it_answers() {
        let request = Command::n_action_rq(4, "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1", 1);
        let response = request.response(Status::PROCESSING_FAILURE);
        assert_eq!(response.command_field, field::N_ACTION_RSP);
        assert_eq!(response.message_id_being_responded_to, Some(4));
        assert_eq!(response.affected_sop_class_uid.as_deref(), Some("1.2.840.10008.1.20.1"));
        assert_eq!(response.affected_sop_instance_uid.as_deref(), Some("1.2.840.10008.1.20.1.1"));
        assert_eq!((response.requested_sop_class_uid, response.message_id), (None, None));
        assert!(!response.has_data_set);
    }

    #[test]
    fn a_comment_fits_its_value_representation() {
        let long = format!("caf\u{e9} \\ \n {}", "x".repeat(100));
        let response = Command::c_echo_rq(1).response(Status::SUCCESS).with_comment(&long);
        let comment = Command::decode(&response.encode()).unwrap().error_comment.unwrap();
        assert_eq!(comment.len(), 64);
        assert!(comment.starts_with("caf? ? ? xxx"));
    }

    #[test]
    fn a_wrong_or_missing_group_length_is_tolerated() {
        let mut bytes = Command::c_echo_rq(1).encode();
        bytes[8] = 0xFF;
        assert_eq!(Command::decode(&bytes), Ok(Command::c_echo_rq(1)));
        assert_eq!(Command::decode(&bytes[12..]), Ok(Command::c_echo_rq(1)));
    }

    #[test]
    fn broken_command_sets_are_refused() {
        let whole = Command::c_echo_rq(1).encode();
        for length in 0..whole.len() {
            assert!(Command::decode(&whole[..length]).is_err(), "{length}");
        }
        let other_group = [&whole[..], &[8, 0, 0x18, 0, 0, 0, 0, 0]].concat();
        assert!(Command::decode(&other_group).is_err());
        let endless = [&whole[..], &[0, 0, 2, 0, 0xFF, 0xFF, 0xFF, 0xFF]].concat();
        assert!(Command::decode(&endless).is_err());
    }

    #[test]
    fn padding_and_emptiness_are_not_values() {
        let mut bytes = Command::c_echo_rq(1).encode();
        push(&mut bytes, element::AFFECTED_SOP_INSTANCE_UID, b"1.2.3\0");
        push(&mut bytes, element::MOVE_DESTINATION, b"");
        let command = Command::decode(&bytes).unwrap();
        assert_eq!(command.affected_sop_instance_uid.as_deref(), Some("1.2.3"));
        assert_eq!(command.move_destination, None);
    }
}
