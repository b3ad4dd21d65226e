//! The system calls of a server whose plan is open. Everything else fails with EPERM: an error that callers handle, where ending the
//! process would let a rare path of a library end all answers.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Which calls the filter lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calls {
    /// Those of a run on the CPU; with `files`, those on files of folders; with `removes`, removing a file.
    OfARun { files: bool, removes: bool },
    /// For a driver whose calls are its own affair: all but those that start programs, make sockets, or reach for other processes
    /// and for the system.
    AllButHarmful,
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Requests of `ioctl`, as <asm-generic/ioctls.h> has them: their type depends on the C library.
const TCGETS: u64 = 0x5401;
const TIOCGWINSZ: u64 = 0x5413;
const FIONBIO: u64 = 0x5421;

/// Calls that a run makes with any arguments: memory, threads and time; sockets that exist; its own signals and end.
const OF_A_RUN: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_yield,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_getcpu,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_sysinfo,
    libc::SYS_accept4,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_ppoll,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// Calls on files, for folders that Landlock grants.
const ON_FILES: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_linkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_fchmod,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_flock,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_getcwd,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
];

const REMOVING: &[i64] = &[
    libc::SYS_unlinkat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
];

/// Calls that neither a driver nor the server has a use for.
const HARMFUL: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_open,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_open_by_handle_at,
    libc::SYS_personality,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

/// `PR_SET_VMA` of prctl, by which allocators name their memory.
const PR_SET_VMA: u64 = 0x5356_4d41;

impl Calls {
    /// The programs of the filters, in the order in which they are to be set.
    pub(super) fn filters(self) -> Result<Vec<BpfProgram>, BackendError> {
        let denied = SeccompAction::Errno(libc::EPERM as u32);
        let always = |calls: &[i64]| calls.iter().map(|call| (*call, Vec::new())).collect::<Rules>();
        match self {
            Calls::OfARun { files, removes } => {
                let mut allowed = always(OF_A_RUN);
                allowed.append(&mut with_arguments()?);
                allowed.append(&mut always(if files { ON_FILES } else { &[] }));
                allowed.append(&mut always(if removes { REMOVING } else { &[] }));
                // No filter can read the flags of clone3. Without it, the C library takes clone.
                let missing = SeccompAction::Errno(libc::ENOSYS as u32);
                let newer = filter(always(&[libc::SYS_clone3]), SeccompAction::Allow, missing)?;
                allowed.append(&mut always(&[libc::SYS_clone3]));
                Ok(vec![newer, filter(allowed, denied, SeccompAction::Allow)?])
            }
            Calls::AllButHarmful => Ok(vec![filter(always(HARMFUL), SeccompAction::Allow, denied)?]),
        }
    }
}

fn filter(rules: Rules, others: SeccompAction, listed: SeccompAction) -> Result<BpfProgram, BackendError> {
    let machine: TargetArch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, others, listed, machine)?.try_into()
}

/// Calls that are harmless with some arguments only.
fn with_arguments() -> Result<Rules, BackendError> {
    let is = |argument, value| equal(argument, u64::MAX, value);
    let lacks = |argument, bits| equal(argument, bits, 0);
    let executable = libc::PROT_EXEC as u64;
    let thread = libc::CLONE_THREAD as u64;
    let own = u64::from(std::process::id());
    let calls = [
        // Memory, but no code.
        (libc::SYS_mmap, vec![lacks(2, executable)?]),
        (libc::SYS_mprotect, vec![lacks(2, executable)?]),
        // Threads, but no processes.
        (libc::SYS_clone, vec![equal(0, thread, thread)?]),
        (libc::SYS_prctl, vec![is(0, libc::PR_SET_NAME as u64)?, is(0, PR_SET_VMA)?]),
        // Signals to itself, to end.
        (libc::SYS_kill, vec![is(0, own)?]),
        (libc::SYS_tgkill, vec![is(0, own)?]),
        // Limits are read, not set: the stack's size for a thread.
        (libc::SYS_prlimit64, vec![is(2, 0)?]),
        // Whether an output is a terminal, and its width; sockets that do not block.
        (libc::SYS_ioctl, vec![is(1, TCGETS)?, is(1, TIOCGWINSZ)?, is(1, FIONBIO)?]),
    ];
    Ok(calls.into_iter().collect())
}

/// The rule that an argument has this value in the bits of a mask.
fn equal(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, BackendError> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)?;
    SeccompRule::new(vec![condition])
}
