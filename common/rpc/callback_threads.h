// For processes that are clients of gRPC's callback API.
#pragma once

namespace tandem::rpc {

// gRPC 1.51 runs callbacks on threads that end with the process's last user of them, and that end is not safe
// while one of them returns from a callback (an abort on a reference count, in one of ten runs of a test of
// links). So one user stays for ever: a channel to nowhere, on which a call has been made. To be called
// before the first link is made; only the first call does something.
void KeepCallbackThreads();

}  // namespace tandem::rpc
