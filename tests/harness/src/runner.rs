//! Runs kernels on a target, with everything around their arrays that a careless kernel would trip over.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use jamba_plan::format::TargetKind;
use jambac_kernels::cases::{Case, Counts};
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::kernel::{Elem, Kernel as _};
use jambac_kernels::target::CpuTarget;
use ptxsim::{Gpu, Options};

use crate::arg::{Arg, Array};
use crate::call::{Call, Found};
use crate::cpu;
use crate::hopper::{Memory, Simulator};
use crate::kernel::{Kernel, Lower};
use crate::record::Recorder;

/// Seeds that kernels run under on the simulator. With an odd seed padding is unwritten, with an even one it is NaN.
pub const SEEDS: [u64; 3] = [1, 2, 3];

/// Where kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Compiled for a CPU and loaded into this process, or run by an emulator.
    Cpu(CpuTarget),
    /// Compiled to PTX of sm_90a and run by the simulator.
    Hopper,
}

impl Target {
    /// The plan's name of the target.
    pub fn kind(self) -> TargetKind {
        match self {
            Target::Cpu(_) => TargetKind::Cpu,
            Target::Hopper => TargetKind::Sm90a,
        }
    }

    /// Whether the target runs a kernel: its `supports`, and half precision needs F16C, which x86-64-v2 lacks.
    pub fn supports(self, kernel: &AnySpec) -> bool {
        let uses_f16 = || {
            let launches = kernel.lowered(TargetKind::Cpu);
            launches.iter().any(|kernel| kernel.params().iter().any(|param| param.elem() == Some(Elem::F16)))
        };
        kernel.supports(self.kind()).is_ok() && !(matches!(self, Target::Cpu(cpu) if !cpu.has_f16c()) && uses_f16())
    }

    /// The conditions that every kernel is tested under.
    pub fn conditions(self) -> Vec<Conditions> {
        match self {
            Target::Cpu(_) => vec![Conditions::AnyThreads],
            Target::Hopper => SEEDS.map(Conditions::Seed).to_vec(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Cpu(target) => write!(f, "{target}"),
            Target::Hopper => f.write_str("sm_90a"),
        }
    }
}

/// What a kernel's result must not depend on.
#[derive(Clone, Debug)]
pub enum Conditions {
    /// On CPUs: with 1, 2, 3 and 7 threads, one thread after the other, last first, and all at once: same bits each time.
    AnyThreads,
    /// On CPUs: with this many threads, one after the other.
    Threads(u64),
    /// On the simulator: blocks and warps run in an order of the seed, approximate functions err by the seed, and padding is
    /// unwritten where the seed is odd.
    Seed(u64),
    /// On the simulator, with all options of the device.
    Device(Options),
}

impl From<u64> for Conditions {
    fn from(seed: u64) -> Conditions {
        Conditions::Seed(seed)
    }
}

impl From<Options> for Conditions {
    fn from(options: Options) -> Conditions {
        Conditions::Device(options)
    }
}

/// Kernels compiled for a target.
pub struct Runner {
    machine: Machine,
}

enum Machine {
    Cpu(cpu::Kernels),
    Simulator(Simulator),
}

impl Runner {
    /// Compiles each kernel once; `None`, with a line on stderr, when this machine cannot run the target.
    #[track_caller]
    pub fn compile<'k, K: Lower + 'k>(target: Target, kernels: impl IntoIterator<Item = &'k K>) -> Option<Runner> {
        let launches = kernels.into_iter().flat_map(|kernel| kernel.lowered(target.kind()));
        let launches: BTreeMap<String, Kernel> = launches.map(|kernel| (kernel.symbol(), kernel)).collect();
        let launches: Vec<Kernel> = launches.into_values().collect();
        let machine = match target {
            Target::Cpu(target) => Machine::Cpu(cpu::compile(target, &launches)?),
            Target::Hopper => Machine::Simulator(Simulator::compile(&launches)),
        };
        Some(Runner { machine })
    }

    /// Kernels compiled for the simulator.
    #[track_caller]
    pub fn hopper<'k, K: Lower + 'k>(kernels: impl IntoIterator<Item = &'k K>) -> Runner {
        Runner::compile(Target::Hopper, kernels).expect("the simulator runs everywhere")
    }

    /// Kernels in PTX on the simulator: mutants.
    #[track_caller]
    pub fn of_ptx(ptx: &str) -> Runner {
        Runner { machine: Machine::Simulator(Simulator::new(ptx, None)) }
    }

    /// Kernels in PTX on the simulator, which writes their launches to a file of cases.
    #[track_caller]
    pub fn recorded_to(path: PathBuf, ptx: &str) -> Runner {
        Runner { machine: Machine::Simulator(Simulator::new(ptx, Some(Recorder::to(path, ptx)))) }
    }

    /// The target that kernels are compiled for.
    pub fn kind(&self) -> TargetKind {
        match &self.machine {
            Machine::Cpu(_) => TargetKind::Cpu,
            Machine::Simulator(_) => TargetKind::Sm90a,
        }
    }

    /// Results and state of a call, whose launches run one after the other.
    #[track_caller]
    pub fn call(&self, conditions: impl Into<Conditions>, kernel: &impl Lower, call: &Call) -> Found {
        let kernels = kernel.lowered(self.kind());
        let args = kernels.iter().map(|kernel| call.args(self.kind(), &kernel.code, kernel.rows)).collect::<Vec<_>>();
        let counts = call.counts();
        // More blocks on GPUs than there are rows: the last find nothing to do.
        let counts = Counts {
            tokens: counts.tokens + 2,
            sequences: counts.sequences + 2,
            outputs: counts.outputs + 2,
            ..counts
        };
        let mut found = Found::default();
        for (kernel, written) in kernels.iter().zip(self.run_all(conditions.into(), &kernels, counts, &args)) {
            call.collect(self.kind(), &kernel.code, written, &mut found);
        }
        found
    }

    /// The results of a launch for a step of these counts, one per parameter that is written, in their order.
    #[track_caller]
    pub fn run(
        &self,
        conditions: impl Into<Conditions>,
        kernel: &impl Lower,
        counts: Counts,
        args: &[Arg],
    ) -> Vec<Array> {
        let kernels: Vec<Kernel> = kernel.lowered(self.kind()).into_iter().rev().take(1).collect();
        self.run_all(conditions.into(), &kernels, counts, &[args.to_vec()]).remove(0)
    }

    #[track_caller]
    fn run_all(
        &self,
        conditions: Conditions,
        kernels: &[Kernel],
        counts: Counts,
        args: &[Vec<Arg>],
    ) -> Vec<Vec<Array>> {
        for (kernel, args) in kernels.iter().zip(args) {
            assert_eq!(args.len(), kernel.params().len(), "{}: arguments", kernel.symbol());
        }
        let one = |run: &dyn Fn(&Kernel, &[Arg]) -> Vec<Array>| {
            assert_eq!(kernels.len(), 1, "CPU kernels are one launch");
            vec![run(&kernels[0], &args[0])]
        };
        match (&self.machine, conditions) {
            (Machine::Cpu(loaded), Conditions::AnyThreads) => one(&|kernel, args| cpu::run(loaded, kernel, args)),
            (Machine::Cpu(loaded), Conditions::Threads(n)) => one(&|kernel, args| cpu::run_on(loaded, kernel, args, n)),
            (Machine::Simulator(simulator), Conditions::Seed(seed)) => {
                simulator.run(Options { seed, ..Options::default() }, kernels, counts, args)
            }
            (Machine::Simulator(simulator), Conditions::Device(options)) => {
                simulator.run(options, kernels, counts, args)
            }
            (_, conditions) => panic!("{conditions:?} are those of another target"),
        }
    }

    /// One launch on a simulated device whose memory outlives it; the results as in [`run`](Self::run), without those at an
    /// address ([`Arg::At`]). The padding of rows is unwritten.
    #[track_caller]
    pub fn launch(&self, gpu: &mut Gpu, kernel: &Kernel, counts: Counts, args: &[Arg]) -> Vec<Array> {
        let Machine::Simulator(simulator) = &self.machine else { panic!("{} is compiled for CPUs", kernel.symbol()) };
        let memory = &mut Memory { gpu, scratch: &mut BTreeMap::new(), padding_is_unwritten: true };
        simulator.run_on(memory, kernel, counts, args)
    }
}

/// A case that runs on a target, under one of its conditions.
pub struct Subject<'a> {
    pub case: &'a Case,
    pub target: Target,
    /// The case's kernel, compiled.
    pub runner: &'a Runner,
    pub conditions: Conditions,
}

impl Subject<'_> {
    /// Results and state of the case's kernel.
    #[track_caller]
    pub fn call(&self, call: &Call) -> Found {
        self.runner.call(self.conditions.clone(), self.case, call)
    }

    /// Tokens of the case.
    pub fn n_tokens(&self) -> usize {
        self.case.counts.tokens
    }

    /// Whether the target is a CPU.
    pub fn is_cpu(&self) -> bool {
        self.target.kind() == TargetKind::Cpu
    }
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Subject { case, target, conditions, .. } = self;
        write!(f, "{:?} of {} tokens on {target}, {conditions:?}", case.kernel, case.counts.tokens)
    }
}

/// Calls `check` with each case that the target supports, under each of its conditions.
#[track_caller]
pub fn each(target: Target, cases: impl IntoIterator<Item = Case>, check: impl Fn(&Subject)) {
    each_under(&target.conditions(), target, cases, check);
}

/// As [`each`], under these conditions.
#[track_caller]
pub fn each_under(all: &[Conditions], target: Target, cases: impl IntoIterator<Item = Case>, check: impl Fn(&Subject)) {
    let cases: Vec<Case> = cases.into_iter().filter(|case| target.supports(&case.kernel)).collect();
    assert!(!cases.is_empty(), "{target} supports none of the cases");
    let Some(runner) = Runner::compile(target, &cases) else { return };
    for (case, conditions) in cases.iter().flat_map(|case| all.iter().map(move |conditions| (case, conditions))) {
        check(&Subject { case, target, runner: &runner, conditions: conditions.clone() });
    }
}
