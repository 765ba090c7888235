// A blocking HTTP/1.1 client for our own gateway: JSON requests, and answers streamed as server-sent events.
#pragma once

#include <boost/beast/http/verb.hpp>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/option_values.h"
#include "nlohmann/json.hpp"

namespace tandem::cli {

struct HttpAnswer {
  int status = 0;
  std::string body;
};

// One connection, kept alive between requests and opened again when the server has closed it. One thread at a
// time.
class HttpClient {
 public:
  explicit HttpClient(Address server, absl::Duration timeout = absl::Minutes(10));
  ~HttpClient();

  // kUnavailable if there is no connection, kDeadlineExceeded past the timeout (of each read or write).
  absl::StatusOr<HttpAnswer> Get(const std::string& path);
  absl::StatusOr<HttpAnswer> Post(const std::string& path, const nlohmann::json& body);

  // Calls on_data with the text behind "data: " of each event. An answer that is not 200 is an error with the
  // server's own message; so is an event with an "error" and a stream that ends without [DONE]. on_data
  // returning false ends the request early (the connection is closed, which cancels it).
  absl::Status Stream(const std::string& path, const nlohmann::json& body,
                      const std::function<bool(std::string_view data)>& on_data);

 private:
  struct Connection;
  absl::StatusOr<Connection*> Open();
  absl::StatusOr<HttpAnswer> Ask(boost::beast::http::verb verb, const std::string& path,
                                 const nlohmann::json* body);

  Address server_;
  absl::Duration timeout_;
  std::unique_ptr<Connection> connection_;
};

// The "error" object's message of an answer, or the body's beginning.
std::string ErrorMessage(const HttpAnswer& answer);

}  // namespace tandem::cli
