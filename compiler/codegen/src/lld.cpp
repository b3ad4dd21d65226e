// lld as a function.

#include "lld/Common/Driver.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <cstring>
#include <string>

LLD_HAS_DRIVER(elf)

// Runs ld.lld with arguments of which the first is its name. Writes its messages, cut to `room` bytes and ended by 0, to `messages`.
// Returns its exit status, with bit 8 set if this process cannot run it again. Not for two threads at a time.
extern "C" int jambac_lld(const char *const *arguments, size_t count, char *messages, size_t room) {
  std::string text;
  lld::Result result;
  {
    llvm::raw_string_ostream stream(text);
    result = lld::lldMain(llvm::ArrayRef(arguments, count), stream, stream, {{lld::Gnu, &lld::elf::link}});
  }
  size_t length = std::min(text.size(), room - 1);
  memcpy(messages, text.data(), length);
  messages[length] = 0;
  return (result.retCode & 0xff) | (result.canRunAgain ? 0 : 0x100);
}
