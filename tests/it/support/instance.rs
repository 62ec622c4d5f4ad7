//! Small synthetic objects, written by hand so that the tests share no encoder with the node.

const LONG_LENGTH_VRS: [&str; 2] = ["OB", "OW"];
const EXPLICIT_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2.1";
const SECONDARY_CAPTURE: &str = "1.2.840.10008.5.1.4.1.1.7";

#[derive(Clone)]
pub struct Instance {
    pub study: String,
    pub series: String,
    pub sop_instance: String,
    pub sop_class: String,
    modality: String,
    patient_id: String,
    patient_name: String,
    pixels: usize,
}

/// An object that nobody has yet: its UIDs are random.
pub fn instance() -> Instance {
    let uid = || format!("2.25.{}", rand::random::<u128>());
    Instance {
        study: uid(),
        series: uid(),
        sop_instance: uid(),
        sop_class: SECONDARY_CAPTURE.to_owned(),
        modality: "OT".to_owned(),
        patient_id: "TEST".to_owned(),
        patient_name: "Test^Synthetic".to_owned(),
        pixels: 64,
    }
}

impl Instance {
    pub fn modality(mut self, modality: &str) -> Self {
        self.modality = modality.to_owned();
        self
    }

    pub fn patient_id(mut self, patient_id: &str) -> Self {
        self.patient_id = patient_id.to_owned();
        self
    }

    /// Bytes of pixel data.
    pub fn pixels(mut self, bytes: usize) -> Self {
        self.pixels = bytes.next_multiple_of(2);
        self
    }

    /// The same study and series, another object.
    pub fn sibling(&self) -> Self {
        Instance { sop_instance: instance().sop_instance, ..self.clone() }
    }

    /// The data set in Explicit VR Little Endian.
    pub fn data_set(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (group, element, vr, value) in [
            (0x0008, 0x0016, "UI", self.sop_class.as_str()),
            (0x0008, 0x0018, "UI", &self.sop_instance),
            (0x0008, 0x0020, "DA", "20261122"),
            (0x0008, 0x0060, "CS", &self.modality),
            (0x0010, 0x0010, "PN", &self.patient_name),
            (0x0010, 0x0020, "LO", &self.patient_id),
            (0x0020, 0x000D, "UI", &self.study),
            (0x0020, 0x000E, "UI", &self.series),
        ] {
            put(&mut bytes, group, element, vr, value.as_bytes());
        }
        let pixels: Vec<u8> = (0..self.pixels).map(|at| (at % 251) as u8).collect();
        put(&mut bytes, 0x7FE0, 0x0010, "OW", &pixels);
        bytes
    }

    /// A Part 10 file.
    pub fn part10(&self) -> Vec<u8> {
        let mut meta = Vec::new();
        put(&mut meta, 0x0002, 0x0001, "OB", &[0, 1]);
        put(&mut meta, 0x0002, 0x0002, "UI", self.sop_class.as_bytes());
        put(&mut meta, 0x0002, 0x0003, "UI", self.sop_instance.as_bytes());
        put(&mut meta, 0x0002, 0x0010, "UI", EXPLICIT_LITTLE_ENDIAN.as_bytes());
        put(&mut meta, 0x0002, 0x0012, "UI", b"2.25.1");
        let mut file = vec![0; 128];
        file.extend(b"DICM");
        put(&mut file, 0x0002, 0x0000, "UL", &(meta.len() as u32).to_le_bytes());
        file.extend(meta);
        file.extend(self.data_set());
        file
    }
}

fn put(bytes: &mut Vec<u8>, group: u16, element: u16, vr: &str, value: &[u8]) {
    let padding = if vr == "UI" { 0 } else { b' ' };
    let length = value.len().next_multiple_of(2);
    bytes.extend(group.to_le_bytes());
    bytes.extend(element.to_le_bytes());
    bytes.extend(vr.as_bytes());
    if LONG_LENGTH_VRS.contains(&vr) {
        bytes.extend([0, 0]);
        bytes.extend((length as u32).to_le_bytes());
    } else {
        bytes.extend((length as u16).to_le_bytes());
    }
    bytes.extend(value);
    if value.len() < length {
        bytes.push(padding);
    }
}
