//! One process per data folder: its database, control socket and secrets belong together, and the
//! spool may be elsewhere, with a lock of its own.

use std::fmt::Display;
use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::ConfigError;
use crate::spool::SpoolError;

/// Commands hold it for moments; a node for as long as it runs.
const PATIENCE: Duration = Duration::from_millis(500);
const OTHERS_MAY_WRITE: u32 = 0o002;
const PAUSE: Duration = Duration::from_millis(20);

/// The lock, until it is dropped or the process ends.
pub struct FolderLock(#[expect(dead_code, reason = "held, not read")] File);

/// Another process has the lock.
#[derive(Debug, thiserror::Error)]
#[error(
    "another process uses the data folder {}: stop it first, or give this node a folder of its own (node.data_dir)",
    .0.display()
)]
pub struct FolderInUse(pub PathBuf);

impl FolderLock {
    /// Makes the folder where there is none. Fails with [`FolderInUse`] when another process stays
    /// in it.
    pub async fn take(dir: &Path) -> anyhow::Result<FolderLock> {
        make_private_dir(dir)?;
        let path = path(dir);
        let opened = File::options().create(true).truncate(false).write(true).open(&path);
        let file = match opened {
            Err(error)
                if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) =>
            {
                return Err(refused(dir, &error).into());
            }
            opened => opened.map_err(|source| SpoolError::Io { path: path.clone(), source })?,
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(FolderLock(file)),
                Err(TryLockError::Error(source)) => return Err(SpoolError::Io { path, source }.into()),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(TryLockError::WouldBlock) => return Err(FolderInUse(dir.to_owned()).into()),
            }
        }
    }

    /// Whether a process has it now.
    pub fn is_held(dir: &Path) -> io::Result<bool> {
        match File::open(path(dir)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            file => Ok(matches!(file?.try_lock_shared(), Err(TryLockError::WouldBlock))),
        }
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("node.lock")
}

fn refused(dir: &Path, why: &dyn Display) -> ConfigError {
    ConfigError::new(format!("node.data_dir: {}: {why}", dir.display()))
}

/// Everything that the node keeps is for its own user only.
fn make_private_dir(dir: &Path) -> Result<(), ConfigError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| refused(dir, &error))?;
    let mode = std::fs::metadata(dir).map_err(|error| refused(dir, &error))?.permissions().mode();
    if mode & OTHERS_MAY_WRITE != 0 {
        let why = "any user of this machine may write to it: `chmod o-w`, or name a folder in it, which the node makes for \
                   itself";
        return Err(refused(dir, &why));
    }
    Ok(())
}
