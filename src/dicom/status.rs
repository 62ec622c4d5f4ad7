//! DIMSE status codes with the clause that defines them.

use std::fmt;

/// The Status (0000,0900) of a DIMSE response.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub u16);

impl Status {
    pub const SUCCESS: Status = Status(0x0000);
    /// PS3.7 §C.5: general.
    pub const PROCESSING_FAILURE: Status = Status(0x0110);
    pub const NO_SUCH_SOP_INSTANCE: Status = Status(0x0112);
    pub const NO_SUCH_EVENT_TYPE: Status = Status(0x0113);
    pub const NO_SUCH_ARGUMENT: Status = Status(0x0114);
    pub const INVALID_ARGUMENT_VALUE: Status = Status(0x0115);
    pub const INVALID_SOP_INSTANCE: Status = Status(0x0117);
    pub const NO_SUCH_SOP_CLASS: Status = Status(0x0118);
    pub const SOP_CLASS_NOT_SUPPORTED: Status = Status(0x0122);
    pub const UNRECOGNIZED_OPERATION: Status = Status(0x0211);
    pub const RESOURCE_LIMITATION: Status = Status(0x0213);
    /// PS3.4 §B.2.3 and §C.4: Storage and Query/Retrieve.
    pub const OUT_OF_RESOURCES: Status = Status(0xA700);
    pub const DATA_SET_MISMATCH: Status = Status(0xA900);
    pub const CANNOT_UNDERSTAND: Status = Status(0xC000);
    pub const CANCEL: Status = Status(0xFE00);
    pub const PENDING: Status = Status(0xFF00);
    /// Some optional keys were not supported for matching (PS3.4 §C.4.1.1.4).
    pub const PENDING_WITHOUT_OPTIONAL_KEYS: Status = Status(0xFF01);

    pub fn is_pending(self) -> bool {
        matches!(self.0, 0xFF00 | 0xFF01)
    }

    /// 0001, 0107, 0116 and Bxxx (PS3.7 §C.4): done, with remarks.
    pub fn is_warning(self) -> bool {
        matches!(self.0, 0x0001 | 0x0107 | 0x0116 | 0xB000..=0xBFFF)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04X}", self.0)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04X}", self.0)
    }
}
