//! The sandbox: what the server can still do once its plan is open, whatever a request makes of it.
//!
//! Two mechanisms of the kernel, which need no privileges:
//!
//! - **seccomp** refuses all system calls but those of a run ([`calls`]): no files are opened, no programs started, no sockets made
//!   but by `accept`, no code mapped. It holds for every thread of the process.
//! - **Landlock** refuses files, TCP connections, abstract sockets and signals to other processes, below the system calls. It holds
//!   for a thread and those that it starts: the HTTP thread takes it before it reads a byte, the step thread once the plan is open.
//!   The workers of the CPU and the thread that waits for signals exist by then; they read nothing of a client. Where the kernel
//!   can (Landlock ABI 8), it holds for them too.
//!
//! A plan on a GPU runs inside NVIDIA's driver, which opens files and devices of its own whenever it likes. There, Landlock covers
//! the HTTP thread alone, and seccomp refuses what neither the driver nor the server needs: programs, new sockets, tracing, mounts.
//!
//! Neither bounds time or memory, or protects the memory of the process itself: other clients' prompts are in it.

mod calls;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use jamba_runtime::Engine;
use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, RestrictSelfAttr, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope,
};

use crate::sandbox::calls::Calls;
use crate::{Address, ServeError};

/// The newest Landlock ABI that the rules use. Older kernels enforce the part that they support.
const LANDLOCK: ABI = ABI::V6;

/// The threads that the sandbox holds for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// No thread.
    #[default]
    Nothing,
    /// The threads that `serve` starts, and its caller. For programs that do other things beside.
    Server,
    /// All threads of the process.
    Process,
}

/// Where the kernels of a plan run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Cpu,
    Cuda,
}

impl Backend {
    pub(crate) fn of(engine: &Engine) -> Backend {
        if engine.device() == "cpu" { Backend::Cpu } else { Backend::Cuda }
    }
}

/// What the server gives up once its plan is open.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    /// The threads that it holds for.
    pub reach: Reach,
    /// The server does not start without it. Otherwise, a warning tells what is missing.
    pub is_required: bool,
    /// Folders whose files may still be read and written.
    pub folders: Vec<PathBuf>,
}

/// The sandbox of a server on its address.
#[derive(Clone, Debug)]
pub(crate) struct Confinement {
    sandbox: Sandbox,
    /// The folder of a unix socket, from which files may still be removed.
    removes_from: Option<PathBuf>,
}

impl Confinement {
    /// Leaves the server the right to remove its unix socket.
    pub(crate) fn new(sandbox: Sandbox, address: &Address) -> Confinement {
        let removes_from = match address {
            Address::Tcp(..) => None,
            Address::Unix(path) => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                Some(folder.unwrap_or(Path::new(".")).to_owned())
            }
        };
        Confinement { sandbox, removes_from }
    }

    /// Confines the thread of the connections, before it reads any.
    ///
    /// # Errors
    /// Fails if the sandbox is required and the kernel lacks a part of it.
    pub(crate) fn confine_http(&self) -> Result<(), ServeError> {
        match self.sandbox.reach {
            Reach::Nothing => Ok(()),
            Reach::Server => {
                self.check(self.landlock(false))?;
                self.check(self.seccomp(Backend::Cpu))
            }
            // The step thread sets the filter of the process: one that a thread had of its own would be in its way.
            Reach::Process => self.check(self.landlock(false)),
        }
    }

    /// Confines the thread of the steps, and with [`Reach::Process`] all others, once the plan is open.
    ///
    /// # Errors
    /// As [`Confinement::confine_http`].
    pub(crate) fn confine_steps(&self, backend: Backend) -> Result<(), ServeError> {
        if self.sandbox.reach == Reach::Nothing {
            return Ok(());
        }
        // Templates know the date; the file of the time zone is out of reach from now on.
        jamba_runtime::keep_time_zone();
        if backend == Backend::Cpu {
            self.check(self.landlock(self.sandbox.reach == Reach::Process))?;
        }
        self.check(self.seccomp(backend))
    }

    fn check(&self, result: Result<(), String>) -> Result<(), ServeError> {
        match result {
            Err(reason) if self.sandbox.is_required => Err(ServeError::Sandbox(reason)),
            Err(reason) => {
                tracing::warn!("the sandbox has a gap: {reason}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn landlock(&self, for_all_threads: bool) -> Result<(), String> {
        let files = AccessFs::from_all(LANDLOCK);
        let all_but_programs = files & !AccessFs::Execute;
        let granted = self.sandbox.folders.iter().map(|folder| (folder, all_but_programs));
        let granted = granted.chain(self.removes_from.iter().map(|folder| (folder, AccessFs::RemoveFile.into())));
        let granted = granted
            .map(|(folder, rights)| {
                Ok(PathBeneath::new(PathFd::new(folder).map_err(|error| error.to_string())?, rights))
            })
            .collect::<Result<Vec<_>, String>>()?;
        let restrict = || {
            Ruleset::default()
                .handle_access(files)?
                .handle_access(AccessNet::from_all(LANDLOCK))?
                .scope(Scope::from_all(LANDLOCK))?
                .create()?
                .add_rules(granted.into_iter().map(Ok::<_, landlock::RulesetError>))?
                .all_threads(for_all_threads)?
                .restrict_self()
        };
        let status = restrict().map_err(|error| format!("Landlock: {error}"))?;
        match status.ruleset {
            RulesetStatus::NotEnforced => Err("the kernel has no Landlock, or it is turned off".to_owned()),
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        }
    }

    fn seccomp(&self, backend: Backend) -> Result<(), String> {
        let failed = |error: &dyn std::fmt::Display| format!("seccomp: {error}");
        let calls = match backend {
            Backend::Cpu => {
                Calls::OfARun { files: !self.sandbox.folders.is_empty(), removes: self.removes_from.is_some() }
            }
            Backend::Cuda => Calls::AllButHarmful,
        };
        for program in calls.filters().map_err(|error| failed(&error))? {
            match self.sandbox.reach {
                Reach::Process => seccompiler::apply_filter_all_threads(&program),
                Reach::Server | Reach::Nothing => seccompiler::apply_filter(&program),
            }
            .map_err(|error| failed(&error))?;
        }
        Ok(())
    }
}
