//! Synthetic objects in Explicit VR Little Endian, the same for the same set, salt and number.

use std::sync::Arc;

pub const EXPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2.1";
const ROOT: &str = "1.2.826.0.1.3680043.10.1338";
const LAST: [&str; 20] = [
    "SMITH",
    "JONES",
    "TANAKA",
    "MULLER",
    "GARCIA",
    "ROSSI",
    "NOVAK",
    "DUBOIS",
    "SILVA",
    "KIM",
    "NGUYEN",
    "IVANOV",
    "HANSEN",
    "COHEN",
    "OKAFOR",
    "PATEL",
    "WALSH",
    "LINDQVIST",
    "MORAES",
    "ADEYEMI",
];
const FIRST: [&str; 7] = ["ANNA", "JOHN", "YUKI", "HANS", "MARIA", "LUCA", "EVA"];

/// What the objects of a set have in common.
#[derive(Clone)]
pub struct Set {
    letter: char,
    pub sop_class: &'static str,
    modality: &'static str,
    frames: u32,
    rows: u16,
    columns: u16,
    bits: u16,
    instances_of_study: u64,
    series_of_study: u64,
    /// The value of Pixel Data.
    pub pixels: Arc<Vec<u8>>,
}

pub struct Object {
    pub sop_instance: String,
    /// The data set as far as the value of Pixel Data, which follows.
    pub head: Vec<u8>,
}

impl Set {
    pub fn named(name: &str) -> Self {
        const US: &str = "1.2.840.10008.5.1.4.1.1.6.1";
        let (letter, sop_class, modality, frames, rows, columns, bits, instances_of_study, series_of_study) =
            match name {
                "a" => ('a', "1.2.840.10008.5.1.4.1.1.2", "CT", 1, 512, 512, 16, 100, 4),
                "b" => ('b', US, "US", 1, 256, 256, 8, 20, 1),
                "c" => ('c', "1.2.840.10008.5.1.4.1.1.1.2", "MG", 1, 4096, 3744, 16, 4, 1),
                "d" => ('d', "1.2.840.10008.5.1.4.1.1.3.1", "US", 300, 1024, 1024, 8, 1, 1),
                "m" => ('m', "1.2.840.10008.5.1.4.1.1.4", "MR", 1, 256, 256, 16, 100, 1),
                "q" => ('q', US, "US", 1, 64, 64, 8, 10, 2),
                _ => panic!("no such set: {name}"),
            };
        let length = frames as usize * rows as usize * columns as usize * (bits as usize / 8);
        let pixels = Arc::new(noise(length, bits));
        Self {
            letter,
            sop_class,
            modality,
            frames,
            rows,
            columns,
            bits,
            instances_of_study,
            series_of_study,
            pixels,
        }
    }

    fn uid(&self, salt: u64, tail: &str) -> String {
        format!("{ROOT}.{}.{salt}.{tail}", self.letter as u32)
    }

    /// The n-th object; a salt of its own gives each run UIDs of its own.
    pub fn object(&self, salt: u64, n: u64) -> Object {
        let (study, of_study) = (n / self.instances_of_study, n % self.instances_of_study);
        let series = of_study * self.series_of_study / self.instances_of_study;
        let sop_instance = self.uid(salt, &format!("{study}.{series}.{of_study}"));
        let mut head = Vec::with_capacity(2048);
        self.general(&mut head, &sop_instance, study, series);
        self.patient(&mut head, study);
        self.relationship(&mut head, salt, study, series, of_study);
        self.image(&mut head);
        Object { sop_instance, head }
    }

    fn general(&self, to: &mut Vec<u8>, sop_instance: &str, study: u64, series: u64) {
        let date = date(study);
        let time = format!("{:02}{:02}{:02}", 7 + study % 12, study * 7 % 60, study * 13 % 60);
        text(to, 0x0008_0005, b"CS", "ISO_IR 192");
        text(to, 0x0008_0008, b"CS", "ORIGINAL\\PRIMARY");
        text(to, 0x0008_0016, b"UI", self.sop_class);
        text(to, 0x0008_0018, b"UI", sop_instance);
        for tag in [0x0008_0020, 0x0008_0021, 0x0008_0022, 0x0008_0023] {
            text(to, tag, b"DA", &date);
        }
        for tag in [0x0008_0030, 0x0008_0031, 0x0008_0032, 0x0008_0033] {
            text(to, tag, b"TM", &time);
        }
        text(to, 0x0008_0050, b"SH", &format!("A{study:07}"));
        text(to, 0x0008_0060, b"CS", self.modality);
        text(to, 0x0008_0070, b"LO", "BENCH SYNTH");
        text(to, 0x0008_0080, b"LO", "Loopback General");
        text(to, 0x0008_0090, b"PN", &format!("REFER^DOC{}", study % 50));
        text(to, 0x0008_1010, b"SH", &format!("ST{}", study % 8));
        text(to, 0x0008_1030, b"LO", &format!("{} BENCH {}", self.modality, study % 20));
        text(to, 0x0008_103e, b"LO", &format!("series {series}"));
        text(to, 0x0008_1090, b"LO", "GEN1");
    }

    /// Ten studies a patient, so that a search for one finds as much in a large index as in a small one.
    fn patient(&self, to: &mut Vec<u8>, study: u64) {
        let patient = study / 10;
        text(to, 0x0010_0010, b"PN", &name(patient));
        text(to, 0x0010_0020, b"LO", &format!("PID{patient:07}"));
        text(
            to,
            0x0010_0030,
            b"DA",
            &format!("19{:02}0{}1{}", 40 + patient % 60, 1 + patient % 9, patient % 9),
        );
        text(to, 0x0010_0040, b"CS", if patient.is_multiple_of(2) { "M" } else { "F" });
        text(to, 0x0010_1010, b"AS", &format!("0{:02}Y", 20 + patient % 70));
        text(to, 0x0018_0015, b"CS", "ABDOMEN");
        text(to, 0x0018_1000, b"LO", &format!("SN{}", study % 8));
        text(to, 0x0018_1020, b"LO", "1.0");
        text(to, 0x0018_1030, b"LO", &format!("P{}", study % 9));
    }

    fn relationship(&self, to: &mut Vec<u8>, salt: u64, study: u64, series: u64, of_study: u64) {
        text(to, 0x0020_000d, b"UI", &self.uid(salt, &study.to_string()));
        text(to, 0x0020_000e, b"UI", &self.uid(salt, &format!("{study}.{series}")));
        text(to, 0x0020_0010, b"SH", &format!("S{study}"));
        text(to, 0x0020_0011, b"IS", &(series + 1).to_string());
        text(to, 0x0020_0013, b"IS", &(of_study + 1).to_string());
    }

    fn image(&self, to: &mut Vec<u8>) {
        short(to, 0x0028_0002, 1);
        text(to, 0x0028_0004, b"CS", "MONOCHROME2");
        if self.frames > 1 {
            text(to, 0x0028_0008, b"IS", &self.frames.to_string());
        }
        short(to, 0x0028_0010, self.rows);
        short(to, 0x0028_0011, self.columns);
        let stored = if self.bits == 16 { 12 } else { 8 };
        short(to, 0x0028_0100, self.bits);
        short(to, 0x0028_0101, stored);
        short(to, 0x0028_0102, stored - 1);
        short(to, 0x0028_0103, 0);
        tag(to, 0x7fe0_0010);
        to.extend(if self.bits == 16 { b"OW\0\0" } else { b"OB\0\0" });
        to.extend((self.pixels.len() as u32).to_le_bytes());
    }
}

/// The day of a study, spread over ten years.
fn date(study: u64) -> String {
    let day = study * 37 % 3600;
    format!("{}{:02}{:02}", 2015 + day / 360, 1 + day % 360 / 30, 1 + day % 30)
}

fn name(patient: u64) -> String {
    format!("{}{:04}^{}", LAST[(patient % 20) as usize], patient / 20, FIRST[(patient % 7) as usize])
}

/// Noise of 8 or 12 bits (xorshift64), a mebibyte of it over and over.
fn noise(length: usize, bits: u16) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(1 << 20);
    while block.len() < (1 << 20).min(length) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = if bits == 16 { state & 0x0fff_0fff_0fff_0fff } else { state };
        block.extend(word.to_le_bytes());
    }
    block.iter().copied().cycle().take(length).collect()
}

fn tag(to: &mut Vec<u8>, tag: u32) {
    to.extend(((tag >> 16) as u16).to_le_bytes());
    to.extend((tag as u16).to_le_bytes());
}

fn text(to: &mut Vec<u8>, element: u32, vr: &[u8; 2], value: &str) {
    let odd = value.len() % 2;
    tag(to, element);
    to.extend(vr);
    to.extend(((value.len() + odd) as u16).to_le_bytes());
    to.extend(value.as_bytes());
    if odd == 1 {
        to.push(if vr == b"UI" { 0 } else { b' ' });
    }
}

fn short(to: &mut Vec<u8>, element: u32, value: u16) {
    tag(to, element);
    to.extend(b"US\x02\0");
    to.extend(value.to_le_bytes());
}

/// The file meta information before a data set in a file (PS3.10 §7.1), with the preamble.
pub fn file_meta(sop_class: &str, sop_instance: &str) -> Vec<u8> {
    let mut meta = Vec::new();
    tag(&mut meta, 0x0002_0001);
    meta.extend(b"OB\0\0\x02\0\0\0\0\x01");
    text(&mut meta, 0x0002_0002, b"UI", sop_class);
    text(&mut meta, 0x0002_0003, b"UI", sop_instance);
    text(&mut meta, 0x0002_0010, b"UI", EXPLICIT_VR_LITTLE_ENDIAN);
    text(&mut meta, 0x0002_0012, b"UI", ROOT);
    let mut file = vec![0; 128];
    file.extend(b"DICM");
    tag(&mut file, 0x0002_0000);
    file.extend(b"UL\x04\0");
    file.extend((meta.len() as u32).to_le_bytes());
    file.extend(meta);
    file
}
