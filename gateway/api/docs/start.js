// Draws the reference. The token that is typed into "Authorize" stays in this page's memory: nothing is stored.
"use strict";

window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  displayOperationId: true,
  displayRequestDuration: true,
  filter: true,
  persistAuthorization: false,
  queryConfigEnabled: false, // nobody's link chooses another description
  showExtensions: true,
  validatorUrl: null, // nothing is sent to swagger.io
  withCredentials: false,
});
