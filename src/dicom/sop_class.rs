//! SOP classes: which are storage, what the services are called. The doors ask it while
//! negotiating; the registry is that of PS3.6 table A-1 as the dictionary crate has it.

use dicom_core::dictionary::UidDictionary;
use dicom_dictionary_std::{StandardSopClassDictionary, uids};

pub const VERIFICATION: &str = "1.2.840.10008.1.1";
pub const PATIENT_ROOT_FIND: &str = "1.2.840.10008.5.1.4.1.2.1.1";
pub const STUDY_ROOT_FIND: &str = "1.2.840.10008.5.1.4.1.2.2.1";

/// Non-Patient Object Storage (PS3.4 §GG.3): a service of its own, for objects that belong to no
/// study. They would be refused one by one: a sender learns it sooner while negotiating.
const NON_PATIENT: [&str; 9] = [
    uids::HANGING_PROTOCOL_STORAGE,
    uids::COLOR_PALETTE_STORAGE,
    uids::GENERIC_IMPLANT_TEMPLATE_STORAGE,
    uids::IMPLANT_ASSEMBLY_TEMPLATE_STORAGE,
    uids::IMPLANT_TEMPLATE_GROUP_STORAGE,
    uids::CT_DEFINED_PROCEDURE_PROTOCOL_STORAGE,
    uids::PROTOCOL_APPROVAL_STORAGE,
    uids::XA_DEFINED_PROCEDURE_PROTOCOL_STORAGE,
    uids::INVENTORY_STORAGE,
];

/// What the registry says about a UID offered as SOP class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A registered Storage SOP class (PS3.4 §B.5), retired ones included.
    Storage,
    /// Registered, and not for storage of what belongs to a study (Verification, Query/Retrieve,
    /// DICOMDIR, palettes …).
    Other,
    /// Not in the registry: private, or newer than our dictionary.
    Unknown,
}

/// The name of a registered SOP class.
pub fn name(uid: &str) -> Option<&'static str> {
    // The dictionary is a unit struct: borrowed for good, it lends its names for good.
    static DICTIONARY: StandardSopClassDictionary = StandardSopClassDictionary;
    DICTIONARY.by_uid(uid).map(|entry| entry.name)
}

pub fn kind(uid: &str) -> Kind {
    match name(uid) {
        Some(name) if is_storage(name) && !NON_PATIENT.contains(&uid) => Kind::Storage,
        Some(_) => Kind::Other,
        None if is_dicoms_but_no_sop_class(uid) => Kind::Other,
        None => Kind::Unknown,
    }
}

/// Storage SOP classes are called so; what else has the word in its name is told by name.
fn is_storage(name: &str) -> bool {
    // Storage Commitment (PS3.4 §J) confirms storage. The media directory (PS3.3 §F) exists on
    // media alone: PS3.4 §B.5 does not list it, and no network service carries it.
    let excluded = ["Storage Commitment", "Media Storage Directory"];
    name.contains("Storage") && !excluded.iter().any(|prefix| name.starts_with(prefix))
}

/// Under DICOM's own root new SOP classes appear in one arc only; what else is there (meta SOP
/// classes, transfer syntaxes, well-known instances) is no SOP class to store.
fn is_dicoms_but_no_sop_class(uid: &str) -> bool {
    const ROOT: &str = "1.2.840.10008.";
    const COMPOSITE_CLASSES: &str = "1.2.840.10008.5.1.4.";
    const GENERAL_PURPOSE_WORKLIST_MANAGEMENT_META: &str = "1.2.840.10008.5.1.4.32";
    uid.starts_with(ROOT)
        && (!uid.starts_with(COMPOSITE_CLASSES) || uid == GENERAL_PURPOSE_WORKLIST_MANAGEMENT_META)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looked through by a person: of the dictionary's SOP classes these, although they are
    /// not named "… Storage" and nothing more, are storage; all other such names are services.
    #[test]
    fn storage_classes_with_odd_names_are_storage() {
        for uid in [
            uids::DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION,
            uids::CT_IMAGE_STORAGE_FOR_PROCESSING,
            "1.2.840.10008.5.1.1.27",
            "1.2.840.10008.5.1.1.29",
            "1.2.840.10008.5.1.1.30",
            "1.2.840.10008.5.1.4.1.1.88.1",
            "1.2.840.10008.5.1.4.1.1.5",
            "1.2.840.10008.5.1.4.34.1",
            uids::RAW_DATA_STORAGE,
            uids::CT_PERFORMED_PROCEDURE_PROTOCOL_STORAGE,
        ] {
            assert_eq!(kind(uid), Kind::Storage, "{uid} {:?}", name(uid));
        }
    }

    #[test]
    fn services_are_not_storage() {
        for uid in [
            uids::VERIFICATION,
            uids::MEDIA_STORAGE_DIRECTORY_STORAGE,
            uids::HANGING_PROTOCOL_STORAGE,
            uids::INVENTORY_STORAGE,
            uids::STORAGE_COMMITMENT_PUSH_MODEL,
            "1.2.840.10008.1.20.2",
            uids::STUDY_ROOT_QUERY_RETRIEVE_INFORMATION_MODEL_FIND,
            uids::INVENTORY_FIND,
            uids::INVENTORY_CREATION,
            uids::MODALITY_PERFORMED_PROCEDURE_STEP,
            uids::BASIC_FILM_SESSION,
            uids::RT_ION_MACHINE_VERIFICATION,
            "1.2.840.10008.5.1.1.9",
            "1.2.840.10008.5.1.4.32",
            "1.2.840.10008.1.20.1.1",
            "1.2.840.10008.1.2.1",
        ] {
            assert_eq!(kind(uid), Kind::Other, "{uid} {:?}", name(uid));
        }
    }

    #[test]
    fn every_uid_of_the_image_storage_arc_is_storage_or_a_query_service() {
        for last in 0..600 {
            let uid = format!("1.2.840.10008.5.1.4.1.1.{last}");
            assert_ne!(kind(&uid), Kind::Other, "{uid} {:?}", name(&uid));
        }
    }

    #[test]
    fn private_and_future_classes_are_unknown() {
        for uid in ["1.3.12.2.1107.5.9.1", "1.2.840.10008.5.1.4.1.1.9999", "2.25.1"] {
            assert_eq!(kind(uid), Kind::Unknown, "{uid}");
        }
    }

    #[test]
    fn names_are_those_of_the_registry() {
        assert_eq!(name("1.2.840.10008.5.1.4.1.1.2"), Some("CT Image Storage"));
        assert_eq!(name("1.2.3"), None);
    }
}
