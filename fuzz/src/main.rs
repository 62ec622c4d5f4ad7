//! libFuzzer around the targets, one of which `RELAYPACS_FUZZ_TARGET` names; `scripts/fuzz.sh` calls it.
//! With `RELAYPACS_FUZZ_SEEDS` it writes the target's seeds into that folder and ends.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

mod memory;
#[path = "../targets/mod.rs"]
mod targets;

use targets::{TARGETS, Target};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("RELAYPACS_FUZZ_TARGET").unwrap_or_default();
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("RELAYPACS_FUZZ_TARGET must be one of: {}", names.join(" "));
        std::process::exit(2)
    })
});

fuzz_target!(
    init: {
        if let Some(folder) = std::env::var_os("RELAYPACS_FUZZ_SEEDS") {
            write_seeds(Path::new(&folder)).expect("the seeds can be written");
            std::process::exit(0);
        }
        // What is made once and kept counts for no run.
        for seed in (TARGET.seeds)() {
            (TARGET.run)(&seed);
        }
    },
    |data: &[u8]| {
        let before = memory::begin();
        (TARGET.run)(data);
        let used = memory::peak().saturating_sub(before);
        let most = memory::most(TARGET.name, data.len());
        assert!(used <= most, "{used} bytes allocated at once for {} of input", data.len());
    }
);

fn write_seeds(folder: &Path) -> std::io::Result<()> {
    for (number, seed) in (TARGET.seeds)().iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number:02}")), seed)?;
    }
    Ok(())
}
