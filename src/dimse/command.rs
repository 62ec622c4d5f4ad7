//! Command sets (PS3.7 §E): Implicit VR Little Endian, group 0000 only.

use crate::dicom::Uid;
use crate::dicom::status::Status;

/// Command Field (0000,0100), PS3.7 §E.1-1.
pub mod field {
    pub const C_STORE_RQ: u16 = 0x0001;
    pub const C_STORE_RSP: u16 = 0x8001;
    pub const C_GET_RQ: u16 = 0x0010;
    pub const C_FIND_RQ: u16 = 0x0020;
    pub const C_FIND_RSP: u16 = 0x8020;
    pub const C_MOVE_RQ: u16 = 0x0021;
    pub const C_ECHO_RQ: u16 = 0x0030;
    pub const C_ECHO_RSP: u16 = 0x8030;
    pub const N_EVENT_REPORT_RQ: u16 = 0x0100;
    pub const N_EVENT_REPORT_RSP: u16 = 0x8100;
    pub const N_ACTION_RQ: u16 = 0x0130;
    pub const N_ACTION_RSP: u16 = 0x8130;
    pub const C_CANCEL_RQ: u16 = 0x0FFF;
}

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
    /// A C-ECHO, C-STORE, … response to this request: same SOP class and instance, its message id.
    pub fn response(&self, _status: Status) -> Command {
        todo!()
    }

    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }

    /// Decodes a command set; `Err` says what is wrong with it. A wrong or missing group length is
    /// tolerated.
    pub fn decode(_bytes: &[u8]) -> Result<Command, &'static str> {
        todo!()
    }

    pub fn c_store_rq(_message_id: u16, _sop_class_uid: &Uid, _sop_instance_uid: &Uid) -> Command {
        todo!()
    }
}
