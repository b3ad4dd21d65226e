//! Loads libcuda and enumerates its devices.

use std::sync::OnceLock;

use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};

use super::super::driver::{DeviceInfo, DriverError};
use super::super::fault::Fault;
use super::abi;
use super::calls::{check, message};
use super::text;
use crate::{DeviceId, RuntimeError};

/// Loads and initializes the library once. The error says why it is not available.
fn ready() -> Result<(), String> {
    static READY: OnceLock<Result<(), String>> = OnceLock::new();
    let first = || {
        // SAFETY: loads NVIDIA's library, whose initializers are trusted.
        if !unsafe { sys::is_culib_present() } {
            return Err("NVIDIA's driver is not installed: libcuda.so was not found".to_owned());
        }
        // SAFETY: the library was just loaded.
        match unsafe { abi::cuInit(0) } {
            answer if answer.is(CUresult::CUDA_SUCCESS) => Ok(()),
            answer if answer.is(CUresult::CUDA_ERROR_NO_DEVICE) => {
                Err("NVIDIA's driver is installed, but finds no device".to_owned())
            }
            answer => Err(format!("NVIDIA's driver is installed, but cannot be initialized: {}", message(answer))),
        }
    };
    READY.get_or_init(first).clone()
}

/// The device with this index and its properties, except its memory, which needs a context.
pub(super) fn device(number: u32) -> Result<(sys::CUdevice, DeviceInfo), RuntimeError> {
    let id = DeviceId::Cuda(number);
    ready().map_err(|reason| RuntimeError::NoDriver { device: id, reason })?;
    let failed = |error: DriverError| Fault::of_call("querying the device", error).error(&id.to_string());
    let mut count = 0;
    // SAFETY: the library is initialized; `count` is a local variable.
    check("cuDeviceGetCount", unsafe { abi::cuDeviceGetCount(&mut count) }).map_err(failed)?;
    let found = u32::try_from(count).unwrap_or(0);
    if number >= found {
        return Err(RuntimeError::NoSuchDevice { wanted: id, found });
    }
    let mut device = 0;
    // SAFETY: the index is less than the count; `device` is a local variable.
    check("cuDeviceGet", unsafe { abi::cuDeviceGet(&mut device, number as i32) }).map_err(failed)?;
    Ok((device, info(device, id).map_err(failed)?))
}

fn info(device: sys::CUdevice, id: DeviceId) -> Result<DeviceInfo, DriverError> {
    let mut name = [0; 128];
    // SAFETY: the buffer is one byte longer than stated.
    check("cuDeviceGetName", unsafe { abi::cuDeviceGetName(name.as_mut_ptr(), name.len() as i32 - 1, device) })?;
    let attribute = |attribute: CUdevice_attribute| {
        let mut value = 0;
        // SAFETY: `device` is a handle from `cuDeviceGet`; `value` is a local variable.
        check("cuDeviceGetAttribute", unsafe { abi::cuDeviceGetAttribute(&mut value, attribute, device) })?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    let mut version = 0;
    // SAFETY: `version` is a local variable.
    check("cuDriverGetVersion", unsafe { abi::cuDriverGetVersion(&mut version) })?;
    let version = u32::try_from(version).unwrap_or(0); // 12040 is 12.4
    Ok(DeviceInfo {
        name: format!("{} ({id})", text(name.as_ptr()).unwrap_or_default()),
        capability: (
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        n_sms: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        total_bytes: 0,
        free_bytes: 0,
        cuda: (version / 1000, version % 1000 / 10),
    })
}
