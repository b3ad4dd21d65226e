//! What calls of the driver answer.

use std::ptr::null;

use cudarc::driver::sys::{self, CUresult};

use super::super::driver::DriverError;
use super::text;

/// How bad an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A kernel did what no kernel may do.
    Fault,
    /// The device is gone.
    Lost,
    /// Something else.
    Other,
}

fn kind(result: CUresult) -> Kind {
    use CUresult::*;
    match result {
        CUDA_ERROR_ILLEGAL_ADDRESS
        | CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES
        | CUDA_ERROR_LAUNCH_TIMEOUT
        | CUDA_ERROR_ASSERT
        | CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUDA_ERROR_MISALIGNED_ADDRESS
        | CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUDA_ERROR_INVALID_PC
        | CUDA_ERROR_LAUNCH_FAILED => Kind::Fault,
        CUDA_ERROR_DEINITIALIZED
        | CUDA_ERROR_DEVICE_UNAVAILABLE
        | CUDA_ERROR_NO_DEVICE
        | CUDA_ERROR_INVALID_DEVICE
        | CUDA_ERROR_ECC_UNCORRECTABLE
        | CUDA_ERROR_NVLINK_UNCORRECTABLE
        | CUDA_ERROR_CONTAINED
        | CUDA_ERROR_OPERATING_SYSTEM
        | CUDA_ERROR_CONTEXT_IS_DESTROYED
        | CUDA_ERROR_SYSTEM_NOT_READY
        | CUDA_ERROR_MPS_RPC_FAILURE
        | CUDA_ERROR_MPS_CLIENT_TERMINATED
        | CUDA_ERROR_EXTERNAL_DEVICE => Kind::Lost,
        _ => Kind::Other,
    }
}

/// The driver's words: `CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered`.
pub(super) fn message(result: CUresult) -> String {
    let mut words = null();
    // SAFETY: the place is ours; the library is loaded, since it answered.
    let known = unsafe { sys::cuGetErrorString(result, &mut words) } == CUresult::CUDA_SUCCESS;
    match text(words).filter(|_| known) {
        Some(words) => format!("{result:?}: {words}"),
        None => format!("{result:?}"),
    }
}

/// What a call answered, as the runtime calls it.
pub(super) fn check(call: &'static str, result: CUresult) -> Result<(), DriverError> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let message = message(result);
    Err(match kind(result) {
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
        let kinds = [
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
            CUresult::CUDA_ERROR_LAUNCH_FAILED,
            CUresult::CUDA_ERROR_ECC_UNCORRECTABLE,
            CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE,
            CUresult::CUDA_ERROR_INVALID_VALUE,
            CUresult::CUDA_ERROR_OUT_OF_MEMORY,
        ]
        .map(kind);
        assert_eq!(kinds, [Kind::Fault, Kind::Fault, Kind::Lost, Kind::Lost, Kind::Other, Kind::Other]);
    }
}
