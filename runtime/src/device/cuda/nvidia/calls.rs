//! Maps result codes of the driver to errors.

use cudarc::driver::sys::CUresult::{self, *};

use super::super::driver::DriverError;
use super::abi::{Answer, words};

/// Classes of result codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A kernel faulted.
    Fault,
    /// The device is lost.
    Lost,
    /// Any other code.
    Other,
}

/// Codes of kernel faults.
const FAULTS: [CUresult; 10] = [
    CUDA_ERROR_ILLEGAL_ADDRESS,
    CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
    CUDA_ERROR_LAUNCH_TIMEOUT,
    CUDA_ERROR_ASSERT,
    CUDA_ERROR_HARDWARE_STACK_ERROR,
    CUDA_ERROR_ILLEGAL_INSTRUCTION,
    CUDA_ERROR_MISALIGNED_ADDRESS,
    CUDA_ERROR_INVALID_ADDRESS_SPACE,
    CUDA_ERROR_INVALID_PC,
    CUDA_ERROR_LAUNCH_FAILED,
];

/// Codes of a lost device.
const LOSSES: [CUresult; 13] = [
    CUDA_ERROR_DEINITIALIZED,
    CUDA_ERROR_DEVICE_UNAVAILABLE,
    CUDA_ERROR_NO_DEVICE,
    CUDA_ERROR_INVALID_DEVICE,
    CUDA_ERROR_ECC_UNCORRECTABLE,
    CUDA_ERROR_NVLINK_UNCORRECTABLE,
    CUDA_ERROR_CONTAINED,
    CUDA_ERROR_OPERATING_SYSTEM,
    CUDA_ERROR_CONTEXT_IS_DESTROYED,
    CUDA_ERROR_SYSTEM_NOT_READY,
    CUDA_ERROR_MPS_RPC_FAILURE,
    CUDA_ERROR_MPS_CLIENT_TERMINATED,
    CUDA_ERROR_EXTERNAL_DEVICE,
];

fn kind(answer: Answer) -> Kind {
    let is_among = |known: &[CUresult]| known.iter().any(|&known| answer.is(known));
    if is_among(&FAULTS) {
        Kind::Fault
    } else if is_among(&LOSSES) {
        Kind::Lost
    } else {
        Kind::Other
    }
}

/// Name and text of a code: `CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered`.
pub(super) fn message(answer: Answer) -> String {
    let name = words("cuGetErrorName", answer).unwrap_or_else(|| format!("result code {}", answer.0));
    match words("cuGetErrorString", answer) {
        Some(words) => format!("{name}: {words}"),
        None => name,
    }
}

/// Converts a result code of `call`.
pub(super) fn check(call: &'static str, answer: Answer) -> Result<(), DriverError> {
    if answer.is(CUDA_SUCCESS) {
        return Ok(());
    }
    let message = message(answer);
    Err(match kind(answer) {
        Kind::Fault => DriverError::Fault(message),
        Kind::Lost => DriverError::Lost(message),
        Kind::Other => DriverError::Call { call, message },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_the_kernels_and_losses_the_device_s() {
        let known = [
            CUDA_ERROR_ILLEGAL_ADDRESS,
            CUDA_ERROR_LAUNCH_FAILED,
            CUDA_ERROR_ECC_UNCORRECTABLE,
            CUDA_ERROR_DEVICE_UNAVAILABLE,
            CUDA_ERROR_INVALID_VALUE,
            CUDA_ERROR_OUT_OF_MEMORY,
        ];
        let kinds = known.map(|known| kind(Answer(known as u32)));
        assert_eq!(kind(Answer(54_321)), Kind::Other);
        assert_eq!(kinds, [Kind::Fault, Kind::Fault, Kind::Lost, Kind::Lost, Kind::Other, Kind::Other]);
    }
}
