//! Migrations are embedded by a macro that can't see a file being added: a change of the
//! directory builds again.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
