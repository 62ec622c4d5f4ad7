//! The objects as files, for clients that read files.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use crate::Outcome;
use crate::arguments::Arguments;
use crate::object::{Set, file_meta};

pub fn run(arguments: &mut Arguments) -> Outcome<()> {
    let set = Set::named(&arguments.next(""));
    let folder = PathBuf::from(arguments.next("."));
    std::fs::create_dir_all(&folder)?;
    for n in 0..arguments.number("count", 1) {
        let object = set.object(arguments.number("salt", 1), n);
        let mut file = File::create(folder.join(format!("{n:06}.dcm")))?;
        file.write_all(&file_meta(set.sop_class, &object.sop_instance))?;
        file.write_all(&object.head)?;
        file.write_all(&set.pixels)?;
    }
    Ok(())
}
