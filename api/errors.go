package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// apiError is an error in OpenAI's shape.
type apiError struct {
	status  int
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

func (e *apiError) Error() string { return e.Message }

// invalid refuses a request because of one of its fields; no field is "".
func invalid(status int, param, format string, args ...any) *apiError {
	e := &apiError{status: status, Message: fmt.Sprintf(format, args...),
		Type: "invalid_request_error"}
	if param != "" {
		e.Param = &param
	}
	return e
}

// badParam refuses a field's value.
func badParam(param, format string, args ...any) *apiError {
	return invalid(http.StatusBadRequest, param, param+": "+format, args...)
}

// unsupported refuses a field that would change the answer's meaning.
func unsupported(param, format string, args ...any) *apiError {
	e := badParam(param, format, args...)
	e.setCode("unsupported_parameter")
	return e
}

func unknownModel(format string, args ...any) *apiError {
	e := invalid(http.StatusNotFound, "model", format, args...)
	e.setCode("model_not_found")
	return e
}

func (e *apiError) setCode(code string) { e.Code = &code }

// toError maps any error to what the client gets: the only place that turns gRPC codes
// into HTTP statuses.
func toError(err error) *apiError {
	var e *apiError
	if errors.As(err, &e) {
		return e
	}
	if errors.Is(err, context.Canceled) {
		err = status.Error(codes.Canceled, "the request was cancelled")
	}
	s := status.Convert(err)
	e = &apiError{Message: s.Message(), Type: "server_error"}
	switch s.Code() {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange:
		return refused(s.Message())
	case codes.NotFound:
		return unknownModel("%s", s.Message()) // the only thing that a request can look for
	case codes.Unauthenticated:
		e.status, e.Type = http.StatusUnauthorized, "authentication_error"
	case codes.PermissionDenied:
		e.status, e.Type = http.StatusForbidden, "permission_error"
	case codes.ResourceExhausted:
		e.status, e.Type = http.StatusTooManyRequests, "rate_limit_error"
		e.setCode("overloaded")
	case codes.Unavailable:
		e.status = http.StatusServiceUnavailable
		e.setCode("unavailable")
	case codes.DeadlineExceeded:
		e.status = http.StatusGatewayTimeout
		e.setCode("timeout")
	case codes.Unimplemented:
		e.status = http.StatusNotImplemented
	case codes.Canceled:
		e.status = 499 // the client closed the request; nobody reads this
	default:
		e.status = http.StatusInternalServerError
	}
	return e
}

// fieldPath matches the start of a coordinator's message about a field.
var fieldPath = regexp.MustCompile(`^[a-z_]+(?:\[\d+\]|\.[a-z_]+)*: `)

// apiNames turns a coordinator's field path into that of the JSON request.
var apiNames = strings.NewReplacer("sampling.", "", "chat.", "", ".parts[", ".content[",
	"tools_json", "tools", "arguments_json", "function.arguments")

// refused is the error for a request that the coordinator did not accept.
func refused(message string) *apiError {
	path := fieldPath.FindString(message)
	param := apiNames.Replace(strings.TrimSuffix(path, ": "))
	switch param {
	case "chat": // what the template says about the whole conversation
		param = "messages"
	case "text", "tokens.ids":
		param = "prompt"
	}
	if param != "" {
		message = param + ": " + message[len(path):]
	}
	if param == "model" {
		return unknownModel("%s", message)
	}
	e := invalid(http.StatusBadRequest, param, "%s", message)
	if param == "prompt" && strings.Contains(message, "context of") {
		e.setCode("context_length_exceeded")
	}
	return e
}

// fail answers with an error; nothing may have been written yet.
func (s *server) fail(w http.ResponseWriter, err error) {
	e := toError(err)
	if e.status == http.StatusTooManyRequests || e.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	s.reply(w, e.status, map[string]*apiError{"error": e})
}

// reply writes one JSON object. The client may be gone; there is nobody to tell.
func (s *server) reply(w http.ResponseWriter, status int, v any) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.opts.WriteTimeout))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
}
