//! Verification (PS3.4 annex A): C-ECHO.

use crate::dicom::status::Status;
use crate::dimse::command::Command;
use crate::dimse::pdu::PduError;

use super::association::Association;
use super::negotiation::{Context, Service};

pub async fn c_echo(
    association: &mut Association,
    context: &Context,
    request: &Command,
) -> Result<(), PduError> {
    let status = match context.service {
        Service::Verification if !request.has_data_set => Status::SUCCESS,
        // A C-ECHO has no data set (PS3.7 §9.1.5).
        Service::Verification => Status::PROCESSING_FAILURE,
        _ => Status::SOP_CLASS_NOT_SUPPORTED,
    };
    association.respond(context, "C-ECHO", request.response(status)).await
}
